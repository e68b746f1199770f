"""The learning rate over the rounds: by hand, for every optimiser and group, across a restart."""

from typing import Any

import pytest
import torch
from handlers_toys import Toy, guided, make_batches, reciprocal, supervised
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import CosineOverRounds


def rates(trainer: Any, number: int, rounds: int, name: str = "optimizer") -> list[float]:
    """Run a round of ``trainer`` and return the learning rates of its optimiser's groups."""
    trainer.state.federated_round, trainer.state.federated_rounds = number, rounds
    trainer.state.max_epochs = trainer.state.epoch + 1
    trainer.run()
    return [group["lr"] for group in getattr(trainer, name).param_groups]


def test_the_decay_by_hand() -> None:
    trainer = supervised(Toy(), make_batches(2), CosineOverRounds(0.1), lr=0.2)
    # cos 0, cos 90 degrees, cos 180 degrees: 1, 0.1 + 0.9 / 2, 0.1 of 0.2; a round that is repeated has the same
    seen = [rates(trainer, number, 3)[0] for number in (1, 2, 3, 3, 1)]
    assert seen == pytest.approx([0.2, 0.11, 0.02, 0.02, 0.2])


@given(st.integers(1, 30), st.floats(0, 1))
@settings(deadline=None, max_examples=20)
def test_rates_fall_from_the_whole_to_the_floor(rounds: int, floor: float) -> None:
    trainer = supervised(Toy(), make_batches(1), lr=0.5)
    handler, seen = CosineOverRounds(floor), []
    for number in range(1, rounds + 1):
        trainer.state.federated_round, trainer.state.federated_rounds = number, rounds
        handler(trainer)
        seen.append(trainer.optimizer.param_groups[0]["lr"] / 0.5)
    assert seen[0] == pytest.approx(1)
    assert seen == sorted(seen, reverse=True)
    if rounds > 1:
        assert seen[-1] == pytest.approx(floor)


def test_the_large_network_and_the_auxiliary_head_follow() -> None:
    large = reciprocal(Toy(), Toy(), make_batches(1), CosineOverRounds(0.5))
    large.optimizer.param_groups[0]["lr"], large.large_optimizer.param_groups[0]["lr"] = 0.1, 0.4
    assert rates(large, 2, 2) == pytest.approx([0.05])
    assert [group["lr"] for group in large.large_optimizer.param_groups] == pytest.approx([0.2])
    public = [{"image": torch.randn(2, 1, 2, 2), "label": torch.tensor([0, 1])}]
    small, _ = guided(Toy(), make_batches(1), public, "head", 2, lr=0.1, handlers=[CosineOverRounds(0.5)])
    assert rates(small, 2, 2) == pytest.approx([0.05, 0.05])


def test_a_restart_goes_on_from_the_initial_rate() -> None:
    first, second = (supervised(Toy(), make_batches(1), CosineOverRounds(0.0), lr=0.2) for _ in range(2))
    rates(first, 2, 3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 2, 3) == pytest.approx([0.1])


def test_a_trainer_that_runs_alone_keeps_its_rate() -> None:
    trainer = supervised(Toy(), make_batches(2), CosineOverRounds(0.1), lr=0.2, max_epochs=3)
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("signals", [{}, {"gate": False}])
def test_a_cold_start_keeps_its_own_rate_until_the_end(signals: dict[str, bool]) -> None:
    trainer = supervised(Toy(), make_batches(1), CosineOverRounds(0.1, cold=0.5), lr=0.2)
    trainer.state.signals = signals
    assert [rates(trainer, number, 3)[0] for number in (1, 2, 3)] == pytest.approx([0.1, 0.1, 0.1])


def test_behind_an_open_gate_a_cold_rate_changes_nothing() -> None:
    trainer = supervised(Toy(), make_batches(1), CosineOverRounds(0.1, cold=0.5), lr=0.2)
    trainer.state.signals = {"gate": True}
    assert [rates(trainer, number, 3)[0] for number in (1, 2, 3)] == pytest.approx([0.2, 0.11, 0.02])


@pytest.mark.parametrize("cold", [0.0, -0.5])
def test_a_cold_rate_that_trains_nothing_is_refused(cold: float) -> None:
    with pytest.raises(InputError, match=r"cold: .* is not above 0"):
        CosineOverRounds(0.1, cold=cold)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_out_of_range_is_refused(floor: float) -> None:
    with pytest.raises(InputError, match=r"floor: .* is not in \[0, 1\]"):
        CosineOverRounds(floor)
