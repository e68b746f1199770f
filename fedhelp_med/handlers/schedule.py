"""Weights of loss terms that change with what a site and the server know of each other.

A schedule is a callable ``engine -> weight``. The federated client tells the engine what is known in
``engine.state.signals``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Schedule = Callable[[Any], float]

GATE = "gate"
"""The signal by which a server says whether the public knowledge fits the task."""


@dataclass(frozen=True)
class Constant:
    """The same weight throughout."""

    value: float

    def __call__(self, engine: Any) -> float:
        """Return the weight."""
        return self.value


@dataclass(frozen=True)
class WhileAhead:
    """``value`` while ``leader`` was better than ``follower`` on the site's validation split, else 0.

    The comparison is that of the last round, which the federated client is told in ``engine.state.signals``; without
    one (the first round, an engine that runs alone) the weight is 0: knowledge from a teacher that is not known to be
    better may do harm.

    Args:
        value: the weight while it is ahead.
        leader: the teacher's name in ``metrics.csv``.
        follower: the student's.
    """

    value: float
    leader: str = "large"
    follower: str = "global"

    def __call__(self, engine: Any) -> float:
        """Return the weight for the current round."""
        results = getattr(engine.state, "signals", {}).get("validation", {})
        ahead = self.leader in results and self.follower in results and results[self.leader] > results[self.follower]
        return self.value if ahead else 0.0


@dataclass(frozen=True)
class UnlessShut:
    """``value``, but 0 while the server's zero-shot gate is shut; an engine that knows of no gate has ``value``.

    Args:
        value: the weight.
        gated: False where the gate says nothing about the knowledge (embeddings have no classes).
    """

    value: float
    gated: bool = True

    def __call__(self, engine: Any) -> float:
        """Return the weight for the current round."""
        shut = self.gated and getattr(engine.state, "signals", {}).get(GATE) is False
        return 0.0 if shut else self.value


def as_schedule(weight: float | Schedule) -> Schedule:
    """Return ``weight`` itself when it is a schedule, else a constant one."""
    return weight if callable(weight) else Constant(float(weight))
