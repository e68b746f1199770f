"""What an evaluator found in each study, for statistics over patients and for pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from fedhelp_med.losses import as_categorical


class StudyResults:
    """Collects one row of numbers for each study of a split, in the order of the datalist.

    After a run ``engine.state.studies`` is the table (``N, columns``) and ``engine.state.study_columns`` its header.

    Args:
        columns: the header.
        function: ``(logits B, C[, spatial], labels) -> B, columns``; by default ``class_probabilities``.
    """

    def __init__(self, columns: Sequence[str], function: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        self.columns = tuple(columns)
        self.function = function or class_probabilities
        self._rows: list[Tensor] = []

    def attach(self, engine: Any) -> None:
        """Register with an evaluator that does not decollate."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Any) -> None:
        """Add the studies of a batch."""
        output = engine.state.output
        rows = self.function(torch.as_tensor(output[Keys.PRED]), torch.as_tensor(output[Keys.LABEL]))
        self._rows.append(rows.detach().double().cpu())

    def _start(self, engine: Any) -> None:
        self._rows = []

    def _finish(self, engine: Any) -> None:
        engine.state.study_columns = self.columns
        engine.state.studies = torch.cat(self._rows) if self._rows else torch.empty(0, len(self.columns))


def class_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each study's label and the probability of each class: ``B, 1 + C`` (C = 2 for one sigmoid channel)."""
    probabilities = as_categorical(logits.double()).softmax(1)
    return torch.cat((labels.reshape(-1, 1).double(), probabilities), 1)
