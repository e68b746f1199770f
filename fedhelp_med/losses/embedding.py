"""Distillation of embeddings: the student's projected features learn to lie where the teacher's do."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fedhelp_med.losses.logits import check_pair, weighted_mean


class EmbeddingDistillationLoss(nn.Module):
    r"""Cosine distance of two embeddings, :math:`1 - cos(s, t)`, averaged over images.

    It is blind to the length of an embedding, which most foundation models do not train. The teacher is behind a
    stop-gradient.

    Example:
        >>> loss = EmbeddingDistillationLoss()
        >>> float(loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[5.0, 0.0]])))
        1.0
    """

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
        return weighted_mean(1 - cosine_similarity(student, teacher, dim=1), weights)
