"""Metrics over a whole split, from logits: what ``metrics.csv`` holds.

MONAI's evaluators average over batches only what can be averaged; an area under the curve cannot. So these metrics
collect the split's logits and labels and compute once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from ignite.metrics import Metric
from monai.metrics import compute_roc_auc
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor


def logits_and_labels(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Take (logits, labels) from an evaluator's output; the evaluator must not decollate."""
    return output[Keys.PRED], output[Keys.LABEL]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose likeliest class is the label. ``logits``: ``N, C`` (or ``N, 1``), ``labels``: ``N``."""
    return (_predicted(logits) == labels).double().mean().item()


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of their images that are recognised."""
    correct = (_predicted(logits) == labels).double()
    recalls = [correct[labels == label].mean() for label in sorted(set(labels.tolist()))]
    return torch.stack(recalls).mean().item()


def auc(logits: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve; with more than two classes the mean of one-against-rest over those that occur.

    NaN when the labels hold a single class: the area is then not defined.
    """
    channels = logits.shape[1]
    areas = []
    for column in [1] if channels == 2 else range(channels):
        positive = labels == (1 if channels == 1 else column)
        if 0 < positive.sum() < len(labels):
            areas.append(float(compute_roc_auc(_log_odds(logits.double(), column), positive.long())))
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
    right = torch.bincount(expected[predicted == expected], minlength=flat.shape[1])
    return torch.stack((right, present), 1)


def class_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each class the sum of its images' (or voxels') logits and their number: ``C, C + 1``, float64."""
    flat, expected = _flat(logits, labels)
    classes = flat.shape[1]
    entries = torch.cat((flat.double(), torch.ones(len(flat), 1, dtype=torch.float64, device=flat.device)), 1)
    return torch.zeros(classes, classes + 1, dtype=torch.float64, device=flat.device).index_add(0, expected, entries)


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Make positions images: logits ``N, C``, labels ``N``."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1).long()


class SplitMetric(Metric):  # type: ignore[misc]
    """An ignite metric that applies a function to the logits and labels of a whole split.

    Args:
        function: ``(logits N, C, labels N) -> float``, e.g. ``auc``.
        output_transform: takes (logits, labels) from the engine's output.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], float],
        output_transform: Callable[[Any], tuple[Tensor, Tensor]] = logits_and_labels,
    ) -> None:
        self.function = function
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget the split."""
        self._logits, self._labels = [], []

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch."""
        logits, labels = output
        self._logits.append(torch.as_tensor(logits).detach().float().cpu())
        self._labels.append(torch.as_tensor(labels).detach().cpu().reshape(-1).long())

    def compute(self) -> float:
        """Return the metric of all batches since ``reset``."""
        return self.function(torch.cat(self._logits), torch.cat(self._labels))


def _log_odds(logits: Tensor, column: int) -> Tensor:
    """The order of the class's probabilities, without the ties of probabilities that round to 1."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [other for other in range(logits.shape[1]) if other != column]
    return logits[:, column] - logits[:, others].logsumexp(1)


def _predicted(logits: Tensor) -> Tensor:
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
