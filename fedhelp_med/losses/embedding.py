"""Distillation of embeddings: the student's projected features learn to lie where the teacher's do."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses.logits import check_pair, weighted_mean

Form = Literal["cosine", "mse"]


class EmbeddingDistillationLoss(nn.Module):
    r"""Distance of two embeddings, averaged over images.

    ``cosine``, :math:`1 - cos(s, t)`, is blind to the length of an embedding, which most foundation models do not
    train; ``mse``, :math:`\frac{1}{D} |s - t|^2`, is not (Romero et al., "FitNets", arXiv 1412.6550). The teacher is
    behind a stop-gradient.

    Args:
        form: ``cosine`` or ``mse``.

    Raises:
        InputError: for another form.

    Example:
        >>> loss = EmbeddingDistillationLoss()
        >>> float(loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[5.0, 0.0]])))
        1.0
    """

    def __init__(self, form: Form = "cosine") -> None:
        super().__init__()
        if form not in ("cosine", "mse"):
            raise InputError(f"embedding loss: {form!r} is unknown; choose cosine or mse")
        self.form = form

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: ``B, D``.
            teacher: the same shape.
            weights: of the images in the mean, ``B``; None is 1 everywhere.

        Raises:
            LogitsError: (a ``ValueError``) if the shapes differ or the weights do not fit.
        """
        check_pair(student, teacher)
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        teacher = teacher.detach().to(student.dtype)
        if self.form == "mse":
            if weights is None:
                return mse_loss(student, teacher)
            return weighted_mean(mse_loss(student, teacher, reduction="none"), weights)
        return weighted_mean(1 - cosine_similarity(student, teacher, dim=1), weights)
