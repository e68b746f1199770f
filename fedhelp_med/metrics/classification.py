"""Metrics of a classifier from its logits."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fedhelp_med.losses import as_categorical
from fedhelp_med.metrics.weighted import weighted_auc


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images whose likeliest class is the label.

    Args:
        logits: ``N, C``; one channel counts as the two logits (0, z).
        labels: class indices, ``N``.
    """
    return (as_categorical(logits).argmax(1) == labels).double().mean().item()


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that occur of the share of their images that are recognised.

    Source: Brodersen et al., "The balanced accuracy and its posterior distribution", 2010.

    Args:
        logits: ``N, C``; one channel counts as the two logits (0, z).
        labels: class indices, ``N``.

    Returns:
        float: 0 to 1, 1 / C by chance; NaN without an image.
    """
    return mean_recall(recognised(as_categorical(logits), labels).tolist())


def mean_recall(counts: Iterable[tuple[int, int]]) -> float:
    """Return the mean over the classes of recognised / present; a class that is not present is left out.

    Args:
        counts: of each class, as ``recognised`` counts them.

    Returns:
        float: 0 to 1; NaN where no class is present.

    Example:
        >>> mean_recall([(2, 4), (1, 1), (0, 0)])
        0.75
    """
    recalls = [right / present for right, present in counts if present]
    return sum(recalls) / len(recalls) if recalls else math.nan


def chance_corrected(balanced: float, classes: int) -> float:
    """Return (balanced accuracy - 1/K) / (1 - 1/K): 0 is chance, 1 perfect, below 0 worse than chance.

    Args:
        balanced: the balanced accuracy.
        classes: K, 2 or more.

    Example:
        >>> chance_corrected(0.75, 2)
        0.5
    """
    chance = 1 / classes
    return (balanced - chance) / (1 - chance)


def log_odds(logits: Tensor, column: int) -> Tensor:
    """Return log p / (1 - p) of one class: the order of its probabilities, without the ties of those that round to 1.

    Args:
        logits: ``N, C``; one channel z is the log-odds of its class already.
        column: the class.

    Returns:
        Tensor: ``N``.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [other for other in range(logits.shape[1]) if other != column]
    return logits[:, column] - logits[:, others].logsumexp(1)


def auc(logits: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve, with more than two classes the mean of one-against-rest.

    The mean is over the classes that occur. An area is the share of pairs in the right order, ties half (Hanley and
    McNeil, "The meaning and use of the area under a ROC curve", 1982).

    Args:
        logits: ``N, C``; one channel is the logit of class 1.
        labels: class indices, ``N``.

    Returns:
        float: 0 to 1; NaN when the labels hold a single class: the area is then not defined.
    """
    channels = logits.shape[1]
    once = np.ones((1, len(labels)))
    areas = []
    for column in [1] if channels == 2 else range(channels):
        positive = labels == (1 if channels == 1 else column)
        if 0 < positive.sum() < len(labels):
            scores = log_odds(logits.detach().double(), column)
            areas.append(float(weighted_auc(scores.cpu().numpy(), positive.cpu().numpy(), once)[0]))
    return sum(areas) / len(areas) if areas else math.nan


def recognised(logits: Tensor, labels: Tensor, centre: Tensor | None = None) -> Tensor:
    """Count per class what is recognised and what there is.

    Args:
        logits: ``B, C[, spatial]``, C > 1.
        labels: class indices, ``B`` or ``B, 1, spatial``.
        centre: ``C``, subtracted from the logits first.

    Returns:
        Tensor: ``C, 2``, the recognised and the present images (or voxels) of each class.
    """
    flat, expected = _flat(logits, labels)
    predicted = (flat if centre is None else flat - centre.to(flat)).argmax(1)
    present = torch.bincount(expected, minlength=flat.shape[1])
    right = torch.bincount(expected[predicted == expected], minlength=len(present))
    return torch.stack((right, present), 1)


def class_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each class the sum of its images' (or voxels') logits and their number: ``C, C + 1``, float64.

    Args:
        logits: ``B, C[, spatial]``, C > 1.
        labels: class indices, ``B`` or ``B, 1, spatial``.
    """
    flat, expected = _flat(logits, labels)
    classes = flat.shape[1]
    entries = torch.cat((flat.double(), torch.ones(len(flat), 1, dtype=torch.float64, device=flat.device)), 1)
    return torch.zeros(classes, classes + 1, dtype=torch.float64, device=flat.device).index_add(0, expected, entries)


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Make positions images: logits ``N, C``, labels ``N``."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1).long()
