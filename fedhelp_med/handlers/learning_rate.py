"""Learning rates that change with the round."""

import math
from typing import Any

from ignite.engine import Events

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers.schedule import GATE


class CosineOverRounds:
    """Lets every learning rate of a trainer decay along a cosine from round to round, to ``floor`` of its start.

    A scheduler of the usual kind counts epochs and forgets them at a restart; this one asks for the round, which the
    federated client sets (``engine.state.federated_round`` from 1, of ``federated_rounds``). A trainer that runs alone
    is left at its own rate.

    Args:
        floor: the share of the initial rate that is left in the last round, in [0, 1].
        cold: the share that holds in every round while the server's gate is shut (``engine.state.signals["gate"]``): a
            network that starts cold still needs in late rounds what a warm-started one needs in the first. None: the
            gate does not matter.
    """

    def __init__(self, floor: float = 0.1, cold: float | None = None) -> None:
        if not 0 <= floor <= 1:
            raise InputError(f"floor: {floor} is not in [0, 1]; give the share of the rate that is left, such as 0.1")
        if cold is not None and cold <= 0:
            raise InputError(f"cold: {cold} is not above 0; give a share of the rate, such as 0.5, or None")
        self.floor = floor
        self.cold = cold

    def attach(self, engine: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the rates of the current round."""
        rounds = getattr(engine.state, "federated_rounds", None)
        if not rounds:
            return
        if self.cold is not None and not getattr(engine.state, "signals", {}).get(GATE):
            factor = self.cold
        else:
            progress = (engine.state.federated_round - 1) / max(1, rounds - 1)
            factor = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in (engine.optimizer, getattr(engine, "large_optimizer", None)):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
