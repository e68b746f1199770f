"""The Dice coefficient of single studies, and its means over a split.

Only one number per study and class is kept while a split is evaluated, never its logits.
"""

import math

from torch import Tensor
from torch.nn.functional import one_hot

from fedhelp_med.losses import as_categorical

BACKGROUND = 0
"""The class that is in every image, and is left out."""


def study_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Dice coefficient of each study and class without the background, ``B, C - 1``, float64.

    ``2 |A and B| / (|A| + |B|)`` (Dice, "Measures of the amount of ecologic association between species", 1945); NaN
    where a class is neither in the label nor in the prediction.

    Args:
        logits: ``B, C, spatial``; one channel counts as the two logits (0, z).
        labels: class indices, ``B, 1, spatial``.
    """
    scores = as_categorical(logits)
    classes = scores.shape[1]
    predicted, expected = (
        one_hot(indices.reshape(len(scores), -1).long(), classes).bool()  # B, positions, C
        for indices in (scores.argmax(1), labels)
    )
    shared = (predicted & expected).sum(1)
    total = predicted.sum(1) + expected.sum(1)
    return (2 * shared.double() / total)[:, BACKGROUND + 1 :]


def class_dice(table: Tensor) -> list[float]:
    """Return for each class the mean over the studies in which it is defined; NaN where it is in none.

    Args:
        table: ``N, C - 1``, rows of ``study_dice``.
    """
    return [float(mean) for mean in table.nanmean(0)]


def mean_dice(table: Tensor) -> float:
    """Return the mean over the classes that are defined in any study; NaN where there is none.

    Args:
        table: ``N, C - 1``, rows of ``study_dice``.
    """
    means = [mean for mean in class_dice(table) if not math.isnan(mean)]
    return sum(means) / len(means) if means else math.nan
