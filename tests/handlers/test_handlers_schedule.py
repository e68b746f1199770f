"""Schedules: bounds, monotony, exact ends, and where rounds come from."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from handlers_toys import Toy, make_batches, supervised
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Events, State

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import GATE, Constant, FirstPart, LinearWarmUp, UnlessShut, WhileAhead, as_schedule

WEIGHTS = st.floats(0, 100)
LENGTHS = st.integers(1, 200)


def engine(**state: Any) -> Any:
    return SimpleNamespace(state=State(**{"epoch": 1, "iteration": 1, "max_epochs": 1, **state}))


def in_round(number: int, rounds: int = 1000) -> Any:
    return engine(federated_round=number, federated_rounds=rounds)


# Warm-up


@given(WEIGHTS, WEIGHTS, LENGTHS)
@settings(deadline=None)
def test_a_warm_up_goes_steadily_from_start_to_value(value: float, start: float, length: int) -> None:
    schedule = LinearWarmUp(value, length, start=start)
    weights = [schedule(in_round(number)) for number in range(1, length + 4)]
    assert weights[length - 1 :] == [value] * 4  # exactly
    if length > 1:
        assert weights[0] == start
    slack = 1e-9 * max(value, start)
    assert all(min(value, start) - slack <= weight <= max(value, start) + slack for weight in weights)
    rising = value >= start
    pairs = itertools.pairwise(weights)
    assert all((after - before) * (1 if rising else -1) >= -slack for before, after in pairs)


def test_a_warm_up_by_hand() -> None:
    schedule = LinearWarmUp(0.8, length=5)
    assert [schedule(in_round(number)) for number in range(1, 8)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("length", [0, 1])
def test_a_warm_up_of_one_unit_is_none(length: int) -> None:
    assert LinearWarmUp(0.8, length=length)(in_round(1)) == 0.8


def test_units_are_rounds_epochs_or_iterations() -> None:
    here = engine(federated_round=2, federated_rounds=9, epoch=3, iteration=5)
    units = [LinearWarmUp(1.0, length=11, unit=unit)(here) for unit in ("round", "epoch", "iteration")]
    assert units == pytest.approx([0.1, 0.2, 0.4])


def test_without_a_federation_epochs_stand_for_rounds() -> None:
    assert LinearWarmUp(1.0, length=11)(engine(epoch=3)) == pytest.approx(0.2)


def test_a_real_trainer_gives_the_position() -> None:
    weights: dict[str, list[float]] = {"round": [], "epoch": [], "iteration": []}
    trainer = supervised(Toy(), make_batches(2), max_epochs=2)
    trainer.state.federated_round, trainer.state.federated_rounds = 4, 10  # as the federated client does

    @trainer.on(Events.ITERATION_COMPLETED)
    def _(engine: Any) -> None:
        for unit, seen in weights.items():
            seen.append(LinearWarmUp(10.0, length=11, unit=unit)(engine))

    trainer.run()
    assert weights == {"round": [3, 3, 3, 3], "epoch": [0, 0, 1, 1], "iteration": [0, 1, 2, 3]}


# First part


@given(st.integers(1, 300), st.data())
@settings(deadline=None)
def test_the_first_part_is_that_share_of_the_rounds(rounds: int, data: st.DataObject) -> None:
    active = data.draw(st.integers(0, rounds))
    schedule = FirstPart(0.3, active / rounds)  # as text would give it: 1/49 of 49 rounds is one round
    weights = [schedule(in_round(number, rounds)) for number in range(1, rounds + 1)]
    assert weights == [0.3] * active + [0.0] * (rounds - active)


def test_the_first_third_of_ten_rounds_is_three() -> None:
    schedule = FirstPart(0.3, 1 / 3)
    assert [schedule(in_round(number, 10)) for number in (1, 3, 4, 10)] == [0.3, 0.3, 0.0, 0.0]


def test_without_a_federation_it_is_a_share_of_the_epochs() -> None:
    schedule = FirstPart(0.3, 0.5)
    assert [schedule(engine(epoch=number, max_epochs=4)) for number in (1, 2, 3, 4)] == [0.3, 0.3, 0.0, 0.0]


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


@given(WEIGHTS, st.integers(1, 1000))
@settings(deadline=None)
def test_a_number_is_a_constant_schedule(weight: float, number: int) -> None:
    assert as_schedule(weight) == Constant(weight)
    assert as_schedule(weight)(in_round(number)) == weight


def test_a_schedule_stays_what_it_is() -> None:
    schedule = LinearWarmUp(1.0, 3)
    assert as_schedule(schedule) is schedule


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(InputError, match="unit: 'rounds' is unknown; choose round, epoch, iteration"):
        LinearWarmUp(1.0, 5, unit="rounds")(in_round(1))  # type: ignore[arg-type]
