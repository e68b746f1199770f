"""Schedules: what a weight is by what the site and the server know."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import State

from fedhelp_med.handlers import GATE, Constant, UnlessShut, WhileAhead, as_schedule


def engine(**state: Any) -> Any:
    return SimpleNamespace(state=State(**state))


# While ahead


@pytest.mark.parametrize(
    ("results", "weight"),
    [
        ({"large": 0.9, "global": 0.8}, 0.3),
        ({"large": 0.8, "global": 0.8}, 0.0),  # no better
        ({"large": 0.7, "global": 0.8}, 0.0),
        ({"large": float("nan"), "global": 0.8}, 0.0),
        ({"large": 0.9}, 0.0),
        ({"proxy": 0.1, "global": 0.8}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_teacher_counts_only_while_it_is_known_to_be_better(results: dict[str, float], weight: float) -> None:
    assert WhileAhead(0.3)(engine(signals={"validation": results})) == weight


def test_without_signals_nothing_is_known() -> None:
    assert WhileAhead(0.3)(engine(signals={})) == 0
    assert WhileAhead(0.3)(engine()) == 0


def test_who_is_compared_can_be_chosen() -> None:
    schedule = WhileAhead(0.3, leader="large", follower="proxy")
    assert schedule(engine(signals={"validation": {"large": 0.7, "proxy": 0.6, "global": 0.8}})) == 0.3


@pytest.mark.parametrize(
    ("signals", "gated", "weight"),
    [({GATE: False}, True, 0.0), ({GATE: True}, True, 0.5), ({}, True, 0.5), ({GATE: False}, False, 0.5)],
)
def test_a_shut_gate_takes_the_weight_away(signals: dict[str, bool], gated: bool, weight: float) -> None:
    assert UnlessShut(0.5, gated)(engine(signals=signals)) == weight


def test_without_a_server_there_is_no_gate() -> None:
    assert UnlessShut(0.5)(engine()) == 0.5


# Numbers


@given(st.floats(0, 100))
@settings(deadline=None)
def test_a_number_is_a_constant_schedule(weight: float) -> None:
    assert as_schedule(weight) == Constant(weight)
    assert as_schedule(weight)(engine()) == weight


def test_a_schedule_stays_what_it_is() -> None:
    schedule = UnlessShut(1.0)
    assert as_schedule(schedule) is schedule
