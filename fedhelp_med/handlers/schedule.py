"""Weights of loss terms that change with the round, the epoch or the iteration.

A schedule is a callable ``engine -> weight``. Rounds come from ``engine.state.federated_round`` (1-based) and
``engine.state.federated_rounds``, which the federated client sets; an engine that runs alone counts its epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedhelp_med.common.errors import InputError

Schedule = Callable[[Any], float]
Unit = Literal["round", "epoch", "iteration"]

GATE = "gate"
"""The signal by which a server says whether the public knowledge fits the task."""


def position(engine: Any, unit: Unit) -> int:
    """Return the 1-based number of the round, epoch or iteration that ``engine`` is in."""
    if unit not in get_args(Unit):
        raise InputError(f"unit: {unit!r} is unknown; choose {', '.join(get_args(Unit))}")
    if unit == "iteration":
        return int(engine.state.iteration)
    epoch = int(engine.state.epoch)
    if unit == "epoch":
        return epoch
    return int(getattr(engine.state, "federated_round", epoch))


@dataclass(frozen=True)
class Constant:
    """The same weight throughout."""

    value: float

    def __call__(self, engine: Any) -> float:
        """Return the weight."""
        return self.value


@dataclass(frozen=True)
class LinearWarmUp:
    """From ``start`` at the first unit to ``value`` at the unit ``length``, then constant.

    Args:
        value: the final weight.
        length: the number of units (at least 1) after which ``value`` is reached; 1 means at once.
        unit: ``round``, ``epoch`` or ``iteration``.
        start: the weight at the first unit.
    """

    value: float
    length: int
    unit: Unit = "round"
    start: float = 0.0

    def __call__(self, engine: Any) -> float:
        """Return the weight at the engine's position."""
        place = position(engine, self.unit)
        if self.length <= 1 or place >= self.length:
            return self.value
        return self.start + (self.value - self.start) * (place - 1) / (self.length - 1)


@dataclass(frozen=True)
class FirstPart:
    """``value`` during the first ``fraction`` of all rounds (or epochs of an engine that runs alone), then 0."""

    value: float
    fraction: float

    def __call__(self, engine: Any) -> float:
        """Return the weight at the engine's position."""
        total = getattr(engine.state, "federated_rounds", None) or engine.state.max_epochs
        last = self.fraction * total + 1e-9  # 1/49 of 49 rounds is one round, in floating point a little less
        return self.value if position(engine, "round") <= last else 0.0


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
