"""What a round's training loss came to."""

from typing import Any

from ignite.engine import Events
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor


class MeanLoss:
    """Keeps the mean of the training loss, with all terms that a method adds, over a run of a trainer."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def attach(self, engine: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def start(self, engine: Any) -> None:
        """Begin a run of the trainer (in a federation: a round)."""
        self._sum, self._count = None, 0

    def __call__(self, engine: Any) -> None:
        """Add the loss of an iteration."""
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)[Keys.LOSS].detach()
        self._sum = loss if self._sum is None else self._sum + loss
        self._count += 1

    @property
    def average(self) -> float | None:
        """The mean over the iterations of the current run; None before the first."""
        return None if self._sum is None else float(self._sum) / self._count
