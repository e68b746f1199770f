"""How good a foundation model is where the truth is known, and how to calibrate it: a bad teacher is seen first.

The public set's labels are the truth. The temperature T is the one that makes them likeliest, softmax(z / T) (Guo et
al., "On Calibration of Modern Neural Networks", arXiv 1706.04599); it changes how sure the model is and not which
class it prefers. The calibration error is that paper's, with 15 equal bins of confidence.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhelp_med.losses import as_categorical
from fedhelp_med.metrics import accuracy, auc, balanced_accuracy, chance_corrected, mean_dice, study_dice

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0  # temperatures: beyond them, soft labels would tell one class alone, or nothing
POSITIONS = 1024  # of each mask that count for calibration: evenly spaced ones
MINIMUM_SCORE, MINIMUM_DICE = 0.2, 0.5


@dataclass(frozen=True)
class Quality:
    """A foundation model on labelled public images.

    Attributes:
        images: with a label and an answer.
        accuracy: of the images, or of the positions of masks.
        balanced_accuracy: the mean recall of the classes that occur; None for masks.
        auc: the area under the ROC curve, averaged over the classes; None for masks, or where a class does not occur.
        dice: the mean over the classes without the background, of each over the images where it occurs in label or
            answer; None for classification, or where no class occurs.
        temperature: T.
        nll: the mean negative log-likelihood of the labels, as answered.
        nll_calibrated: the same after division by T.
        error: the expected calibration error, as answered.
        error_calibrated: the same after division by T.
        score: what the model is worth: the chance-corrected balanced accuracy (0 is chance, 1 perfect), or Dice.
        minimum: below which it is not worth much by default.
    """

    images: int
    accuracy: float
    balanced_accuracy: float | None
    auc: float | None
    dice: float | None
    temperature: float
    nll: float
    nll_calibrated: float
    error: float
    error_calibrated: float
    score: float
    minimum: float


def class_quality(logits: Tensor, labels: Tensor) -> Quality:
    """Measure a classifier.

    Args:
        logits: `N, K`; one channel counts as the two logits (0, z).
        labels: `N` class indices.
    """
    scores = as_categorical(logits.double())
    classes = scores.shape[1]
    balanced = balanced_accuracy(scores, labels)
    return Quality(
        len(labels),
        accuracy(scores, labels),
        balanced,
        auc(scores, labels) if len(set(labels.tolist())) == classes else None,
        None,
        *_calibration(scores, labels),
        score=chance_corrected(balanced, classes),
        minimum=MINIMUM_SCORE,
    )


def mask_quality(pairs: Iterable[tuple[Tensor, Tensor]]) -> Quality:
    """Measure a segmentation model; one image is in memory at a time.

    Args:
        pairs: of each image logits `K, spatial` and class indices `spatial`.
    """
    dice, sampled, truths = [], [], []
    right = positions = 0
    for logits, labels in pairs:
        scores = as_categorical(logits.double().flatten(1)[None])[0].T  # positions, K
        truth = labels.flatten()
        predicted = scores.argmax(1)
        right, positions = right + int((predicted == truth).sum()), positions + len(truth)
        dice.append(study_dice(logits.double()[None], labels[None, None]))
        places = torch.linspace(0, len(truth) - 1, min(POSITIONS, len(truth))).round().long()
        sampled.append(scores[places])
        truths.append(truth[places])
    mean = mean_dice(torch.cat(dice))
    return Quality(
        len(dice),
        right / positions,
        None,
        None,
        None if math.isnan(mean) else mean,
        *_calibration(torch.cat(sampled), torch.cat(truths)),
        score=0.0 if math.isnan(mean) else mean,
        minimum=MINIMUM_DICE,
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T at which softmax(z / T) makes the labels likeliest, between 0.1 and 10.

    The negative log-likelihood is convex in 1/T: its derivative, the mean of E_p[z] - z_y, has one zero, which is
    found by bisection. A model that is always right has none, and gets the coldest temperature; one that is worse
    than chance the hottest.

    Args:
        logits: `N, K`, K of 2 and more, float64.
        labels: `N` class indices.
    """
    chosen = logits.gather(1, labels[:, None])[:, 0]
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(40):
        middle = (low + high) / 2
        slope = ((logits * math.exp(middle)).softmax(1) * logits).sum(1) - chosen
        low, high = (middle, high) if float(slope.mean()) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error: by bins of confidence, the mean of |accuracy - confidence|.

    Args:
        logits: `N, K`, K of 2 and more.
        labels: `N` class indices.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (0, 1/15], (1/15, 2/15], ...
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, (predicted == labels).double() - confidence)
    return float(gaps.abs().sum() / len(labels))


def _calibration(logits: Tensor, labels: Tensor) -> tuple[float, float, float, float, float]:
    """Return the temperature, and likelihood and calibration error before and after."""
    temperature = fit_temperature(logits, labels)
    softened = logits / temperature
    return (
        temperature,
        float(cross_entropy(logits, labels)),
        float(cross_entropy(softened, labels)),
        calibration_error(logits, labels),
        calibration_error(softened, labels),
    )
