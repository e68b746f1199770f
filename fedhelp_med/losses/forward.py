"""Forward distillation: the student learns the teacher's whole soft label."""

import math

from torch import Tensor, nn
from torch.nn import functional

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses.logits import prepare_pair, weighted_mean


class ForwardDistillationLoss(nn.Module):
    r"""Soft-label distillation, :math:`T^2 \, KL(softmax(z_t / T) \| softmax(z_s / T))`.

    Summed over classes, averaged over images and positions. The factor T^2 keeps the size of the gradient, about
    T (p_s - p_t) per logit, independent of T. The teacher is behind a stop-gradient.

    Large to proxy in FedHelp (Wang et al., arXiv 2412.19654), and foundation model to auxiliary head; the loss
    itself is from Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    Args:
        temperature: T > 0; larger values show the student more of the classes that the teacher finds unlikely.

    Raises:
        InputError: if the temperature is not a positive, finite number.

    Example:
        >>> import torch
        >>> loss = ForwardDistillationLoss(temperature=2.0)
        >>> float(loss(torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)))
        0.0
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature is {temperature}; it must be a positive number, such as 1.0")
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student_logits: ``B, C[, H, W[, D]]``; one channel counts as the two logits (0, z).
            teacher_logits: the same shape.
            weights: of the images, ``B``, or the positions, ``B, H, W[, D]``, in the mean; None is 1 everywhere.

        Raises:
            LogitsError: (a ``ValueError``) if the shapes differ or have no channel dimension, or weights do not fit.
        """
        student, teacher = prepare_pair(student_logits, teacher_logits)
        student_log = functional.log_softmax(student / self.temperature, dim=1)
        teacher_log = functional.log_softmax(teacher.to(student.dtype) / self.temperature, dim=1)
        # Never kl_div's own mean (1/C of this) or batchmean (H*W*D times this in dense output).
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
        return weighted_mean(divergence, weights) * self.temperature**2
