"""What the handlers that add a loss term have in common."""

from abc import ABC, abstractmethod
from typing import Any

from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from fedhelp_med.handlers.schedule import Schedule, as_schedule


class LossTerm(ABC):
    """Adds ``weight * term(engine)`` to one loss of a trainer, before it calls backward.

    MONAI's trainers fire ``LOSS_COMPLETED`` between the loss and its backward, so a handler there changes the
    gradient without touching the engine. A subclass writes ``term``; at weight 0 it is not even computed.

    Args:
        weight: a number, or a schedule ``engine -> number``.
        loss_key: the loss in ``engine.state.output`` that the term joins.
    """

    name = "term"
    """What the term is called in a run's events."""

    def __init__(self, weight: float | Schedule, loss_key: str = Keys.LOSS) -> None:
        self.weight = as_schedule(weight)
        self.loss_key = loss_key
        self._sum: Tensor | None = None
        self._count = 0

    def attach(self, engine: Any) -> None:
        """Register the term with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def start(self, engine: Any) -> None:
        """Begin a run of the trainer (in a federation: a round)."""
        self._sum, self._count = None, 0

    def __call__(self, engine: Any) -> None:
        """Add the weighted term to the loss of the current iteration."""
        weight = self.weight(engine)
        if weight == 0:
            return
        weighted = weight * self.term(engine)
        output = engine.state.output
        output[self.loss_key] = output[self.loss_key] + weighted
        self._sum = weighted.detach() if self._sum is None else self._sum + weighted.detach()
        self._count += 1

    @abstractmethod
    def term(self, engine: Any) -> Tensor:
        """Return the unweighted term, a scalar with a graph."""

    @property
    def average(self) -> float:
        """Mean of the weighted term over the iterations of the current run in which it acted, else 0."""
        return 0.0 if self._sum is None else float(self._sum) / self._count
