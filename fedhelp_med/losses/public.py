"""What a public image teaches through the task head: a teacher's soft label, its own label, or both."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhelp_med.losses.forward import ForwardDistillationLoss
from fedhelp_med.losses.logits import LogitsError, as_categorical, class_indices

NEITHER = "neither a label nor an answer of the foundation model"
"""What a public batch has that teaches nothing."""


def public_loss(logits: Tensor, teacher: Tensor | None, labels: Tensor | None, weight: float = 1.0) -> Tensor:
    """Return ``weight * KL(p_teacher || p) + CE(z, y)``, averaged over images and positions; a term may be absent.

    Args:
        logits: ``B, C[, H, W[, D]]``; one channel counts as the two logits (0, z).
        teacher: logits of the same shape (of one channel or two alike), or None.
        labels: class indices, ``B``, or masks ``B, 1, H, W[, D]``, or None.
        weight: lambda; at 0 the teacher is not asked.

    Raises:
        LogitsError: (a ``ValueError``) when there is nothing to learn from, or the shapes differ.
    """
    logits = as_categorical(logits)
    distilled = supervised = None
    if teacher is not None and weight:
        teacher = as_categorical(teacher).to(logits.device, logits.dtype)
        distilled = weight * ForwardDistillationLoss()(logits, teacher)
    if labels is not None:
        supervised = cross_entropy(logits, class_indices(labels, logits))
    return sum_of_terms(distilled, supervised)


def sum_of_terms(*terms: Tensor | None, absent: str = NEITHER) -> Tensor:
    """Return the sum of those terms of a public batch's loss that there are, a scalar.

    Args:
        terms: scalars, or None.
        absent: what the batch has when there is no term at all.

    Raises:
        LogitsError: (a ``ValueError``) when there is none.
    """
    present = [term for term in terms if term is not None]
    if not present:
        raise LogitsError(f"public batch: it has {absent} to learn from")
    return torch.stack(present).sum()
