"""What a public image teaches through the task head: a teacher's soft label, its own label, or both."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhelp_med.losses.forward import ForwardDistillationLoss
from fedhelp_med.losses.logits import LogitsError, as_categorical, class_indices


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
    terms = []
    if teacher is not None and weight:
        teacher = as_categorical(teacher).to(logits.device, logits.dtype)
        terms.append(weight * ForwardDistillationLoss()(logits, teacher))
    if labels is not None:
        terms.append(cross_entropy(logits, class_indices(labels, logits)))
    if not terms:
        raise LogitsError("public batch: it has neither a label nor an answer of the foundation model to learn from")
    return torch.stack(terms).sum()
