"""The Dice coefficients of a split as metrics of an evaluator: what ``metrics.csv`` holds for segmentation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.metrics import Metric, MetricsLambda
from torch import Tensor

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers.metrics import logits_and_labels
from fedhelp_med.metrics import class_dice, mean_dice, study_dice
from fedhelp_med.metrics.dice import BACKGROUND

DICE_MEAN = "dice_mean"


def dice_names(class_names: Sequence[str]) -> list[str]:
    """Return ``dice_CLASS`` for every class but the background (the first), with ``_`` for all but letters and digits.

    Raises:
        InputError: when two classes, or a class and the mean, would have the same name.

    Example:
        >>> dice_names(["background", "grey matter", "white matter"])
        ['dice_grey_matter', 'dice_white_matter']
    """
    names = ["dice_" + "".join(c if c.isalnum() else "_" for c in name) for name in class_names[BACKGROUND + 1 :]]
    if len({*names, DICE_MEAN}) != len(names) + 1:
        raise InputError(
            f"class_names: {list(class_names)} give the metrics {', '.join(names)} beside {DICE_MEAN}, which are not "
            "all different; rename a class"
        )
    return names


class StudyDice(Metric):  # type: ignore[misc]
    """An ignite metric that collects ``study_dice`` of a whole split: ``N, C - 1``.

    Args:
        output_transform: takes (logits, labels) from the engine's output; the evaluator must not decollate.
    """

    def __init__(self, output_transform: Callable[[Any], tuple[Tensor, Tensor]] = logits_and_labels) -> None:
        self._rows: list[Tensor] = []
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget the split."""
        self._rows = []

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch."""
        logits, labels = output
        self._rows.append(study_dice(torch.as_tensor(logits).detach(), torch.as_tensor(labels)).cpu())

    def compute(self) -> Tensor:
        """Return the Dice coefficients of all batches since ``reset``."""
        return torch.cat(self._rows)


def dice_metrics(class_names: Sequence[str]) -> dict[str, Metric]:
    """Return the metrics of an evaluator, ``dice_mean`` first, then ``dice_CLASS``; they share one ``StudyDice``."""
    table = StudyDice()
    metrics: dict[str, Metric] = {DICE_MEAN: MetricsLambda(mean_dice, table)}
    for index, name in enumerate(dice_names(class_names)):
        metrics[name] = MetricsLambda(lambda table, index=index: class_dice(table)[index], table)
    return metrics
