"""Metrics of a classifier from its probabilities, under many weightings of the studies at once.

A bootstrap sample is a weighting: how often each study was drawn.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEARLY_1 = 1 - 1e-8
"""Above it, half of the digits of 1 - p are lost in p."""


def weighted_auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Area under the ROC curve of each weighted sample: the share of pairs in the right order, ties half.

    It is the Mann-Whitney statistic (Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982),
    by cumulated weights over the sorted scores. A score that is not a number is in the right order with none.

    Args:
        scores: ``N``, higher for likelier positives.
        positive: ``N``.
        weights: ``B, N``, not negative.

    Returns:
        Floats: ``B``; NaN where a sample has only one of the two classes.
    """
    scores = np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
    order = np.argsort(scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[:, order]
    before = np.zeros((len(weights), len(scores) + 1))
    np.cumsum(np.where(positive, 0, weights), axis=1, out=before[:, 1:])
    lower = before[:, np.searchsorted(scores, scores[positive], "left")]
    upper = before[:, np.searchsorted(scores, scores[positive], "right")]
    own = weights[:, positive]
    return _ratio((own * (lower + upper)).sum(1) / 2, own.sum(1) * before[:, -1])


def one_against_rest_auc(probabilities: Floats, labels: NDArray[Any], weights: Floats) -> Floats:
    """Mean over the classes of each class's area against the rest; with two classes that of the second.

    A class that a sample does not have, or has only, is left out of that sample's mean.

    Args:
        probabilities: ``N, C``, C > 1.
        labels: ``N``, class indices.
        weights: ``B, N``, not negative.

    Returns:
        Floats: ``B``; NaN where a sample has a single class.
    """
    classes = probabilities.shape[1]
    areas = []
    for index in [1] if classes == 2 else range(classes):
        areas.append(weighted_auc(_log_odds(probabilities, index), labels == index, weights))
    return _mean_over_classes(areas)


def weighted_balanced_accuracy(probabilities: Floats, labels: NDArray[Any], weights: Floats) -> Floats:
    """Mean over the classes that a sample has of the share of their studies that are recognised.

    Args:
        probabilities: ``N, C``, C > 1.
        labels: ``N``, class indices.
        weights: ``B, N``, not negative.

    Returns:
        Floats: ``B``; NaN for a sample without a study.
    """
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    recalls = []
    for label in np.unique(labels):
        own = weights[:, labels == label]
        recalls.append(_ratio(own @ right[labels == label], own.sum(1)))
    return _mean_over_classes(recalls)


def _log_odds(probabilities: Floats, index: int) -> Floats:
    """The order of a class's probabilities, ties included, and beyond it of those that were rounded to 1.

    Near 1 the sum of the others tells more digits of 1 - p than p does; elsewhere its rounding would break ties of p.
    """
    p, others = probabilities[:, index], np.delete(probabilities, index, 1).sum(1)
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(p) - np.log(np.where(p < NEARLY_1, 1 - p, others))
    return odds


def _mean_over_classes(values: list[Floats]) -> Floats:
    """Mean of those that are defined, sample by sample."""
    table = np.stack(values)
    return _ratio(np.nansum(table, 0), (~np.isnan(table)).sum(0))


def _ratio(numerator: Floats, denominator: NDArray[Any]) -> Floats:
    """NaN for 0 / 0; nothing else is divided by 0 here."""
    with np.errstate(invalid="ignore"):
        ratio: Floats = numerator / denominator
    return ratio
