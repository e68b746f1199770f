"""Weights of loss terms that change with the round, the epoch or the iteration.

A schedule is a callable ``engine -> weight``. Rounds come from ``engine.state.federated_round`` (1-based) and
``engine.state.federated_rounds``, which the federated client sets; an engine that runs alone counts its epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Schedule = Callable[[Any], float]
Unit = Literal["round", "epoch", "iteration"]


def position(engine: Any, unit: Unit) -> int:
    """Return the 1-based number of the round, epoch or iteration that ``engine`` is in."""
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
        if self.length <= 1:
            return self.value
        progress = min(1.0, (position(engine, self.unit) - 1) / (self.length - 1))
        return self.start + (self.value - self.start) * progress


@dataclass(frozen=True)
class FirstPart:
    """``value`` during the first ``fraction`` of all rounds (or epochs of an engine that runs alone), then 0."""

    value: float
    fraction: float

    def __call__(self, engine: Any) -> float:
        """Return the weight at the engine's position."""
        total = getattr(engine.state, "federated_rounds", None) or engine.state.max_epochs
        return self.value if position(engine, "round") <= self.fraction * total else 0.0


def as_schedule(weight: float | Schedule) -> Schedule:
    """Return ``weight`` itself when it is a schedule, else a constant one."""
    return weight if callable(weight) else Constant(float(weight))
