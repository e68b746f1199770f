"""What the distillation losses share: what they ask of a pair of logit tensors, and their mean over images."""

import torch
from torch import Tensor

from fedhelp_med.common.errors import InputError


class LogitsError(InputError, ValueError):
    """The logits do not fit together, or do not fit the loss."""


def as_categorical(logits: Tensor) -> Tensor:
    """Return logits with one channel per class: a sigmoid's single z becomes the two logits (0, z).

    softmax((0, z)) is (1 - sigmoid(z), sigmoid(z)), so a softmax loss of the result is the Bernoulli loss of z.
    The softmax of one channel alone is always 1, and a loss of it always 0.

    Args:
        logits: ``B, C[, H, W[, D]]``; with C > 1 they are returned unchanged.

    Raises:
        LogitsError: (a ``ValueError``) if there is no channel dimension.
    """
    if logits.ndim < 2:
        raise LogitsError(
            f"logits have the shape {tuple(logits.shape)}; they need a channel dimension, B, C[, H, W[, D]]: "
            "do not squeeze a network's single channel"
        )
    if logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def class_indices(labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels as torch's cross-entropy takes them: ``B``, or ``B, spatial`` for dense logits.

    Args:
        labels: class indices, ``B``, ``B, spatial``, or with a channel, ``B, 1[, spatial]``.
        logits: ``B, C[, spatial]``.
    """
    return (labels.squeeze(1) if labels.ndim == logits.ndim else labels).to(logits.device, torch.int64)


def check_pair(student: Tensor, teacher: Tensor) -> None:
    """Refuse two tensors of different shapes, which torch would broadcast to a plausible number.

    Raises:
        LogitsError: (a ``ValueError``) naming both shapes.
    """
    if student.shape != teacher.shape:
        raise LogitsError(
            f"student logits have the shape {tuple(student.shape)} but teacher logits {tuple(teacher.shape)}; "
            "give both networks the same images, classes and output size"
        )


def prepare_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the checked pair with one channel per class, at least in float32, the teacher without gradient.

    Half precision is left behind here because sums over classes and positions do not survive it.

    Raises:
        LogitsError: as :func:`as_categorical` and :func:`check_pair` do.
    """
    check_pair(student, teacher)
    student, teacher = (
        as_categorical(logits).to(torch.promote_types(logits.dtype, torch.float32))
        for logits in (student, teacher.detach())
    )
    return student, teacher


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of ``weights * values``: divided by the number of values, not by the sum of the weights.

    Args:
        values: ``B[, ...]``.
        weights: the same shape, or as much of its beginning as there is (``B``); None is 1 everywhere.

    Raises:
        LogitsError: (a ``ValueError``) if the shapes do not begin alike.
    """
    if weights is None:
        return values.mean()
    if weights.shape != values.shape[: weights.ndim]:
        raise LogitsError(
            f"the weights have the shape {tuple(weights.shape)} but what they weigh {tuple(values.shape)}; "
            "give a weight for each image or for each of its positions"
        )
    return (values * weights.reshape(*weights.shape, *(1,) * (values.ndim - weights.ndim))).mean()
