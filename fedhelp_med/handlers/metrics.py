"""Metrics of an evaluator over a whole split: what ``metrics.csv`` holds.

MONAI's evaluators average over batches only what can be averaged; an area under the curve cannot. So these metrics
collect the split's logits and labels and compute once.
"""

from collections.abc import Callable
from typing import Any

import torch
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor


def logits_and_labels(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Take (logits, labels) from an evaluator's output; the evaluator must not decollate."""
    return output[Keys.PRED], output[Keys.LABEL]


class SplitMetric(Metric):  # type: ignore[misc]
    """An ignite metric that applies a function to the logits and labels of a whole split.

    Args:
        function: ``(logits N, C, labels N) -> float``, e.g. ``fedhelp_med.metrics.auc``.
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
