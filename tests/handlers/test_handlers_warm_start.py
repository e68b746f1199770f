"""The warm start of a large network on public knowledge: when, for whom, and towards what."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from handlers_toys import Batch, Toy, divergence, make_batches, reciprocal
from torch import nn
from torch.nn.functional import cross_entropy

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import GATE, KNOWLEDGE, PublicWarmStart


def public(classes: int = 3) -> list[Batch]:
    return [{"image": torch.randn(6, 1, 2, 2), KNOWLEDGE: torch.randn(6, classes) * 2} for _ in range(2)]


class Refuses:
    def __iter__(self) -> Iterator[Batch]:
        raise AssertionError("the public set was read")


def trainer_with(handler: PublicWarmStart, number: int = 1, classes: int = 3, **signals: Any) -> Any:
    """Learning rate 0: what changes is the warm start's doing."""
    if classes == 1:
        batches = [{"image": torch.randn(2, 1, 2, 2), "label": torch.tensor([[0.0], [1.0]])}]
        options = {"loss_function": nn.BCEWithLogitsLoss()}
    else:
        batches, options = make_batches(2), {}
    trainer = reciprocal(Toy(classes), Toy(classes), batches, handler, **options)
    trainer.state.federated_round, trainer.state.signals = number, signals
    return trainer


def changed(trainer: Any, before: dict[str, dict[str, torch.Tensor]]) -> set[str]:
    networks = {"network": trainer.network, "large_network": trainer.large_network}
    return {
        name
        for name, network in networks.items()
        if any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
    }


def run(trainer: Any) -> set[str]:
    """Run a round; return which networks have moved."""
    before = {name: copy.deepcopy(getattr(trainer, name).state_dict()) for name in ("network", "large_network")}
    trainer.run()
    return changed(trainer, before)


def test_the_large_network_comes_near_the_foundation_model() -> None:
    batches = public()
    trainer = trainer_with(PublicWarmStart(batches, steps=60, learning_rate=0.05), **{GATE: True})

    def distance() -> float:
        return sum(divergence(b[KNOWLEDGE], trainer.large_network(b["image"]), 1.0).item() for b in batches)

    before = distance()
    assert run(trainer) == {"large_network"}
    assert distance() < 0.6 * before


def test_one_sigmoid_channel_learns_as_well() -> None:
    batches = public(classes=2)
    trainer = trainer_with(PublicWarmStart(batches, steps=60, learning_rate=0.05), classes=1, **{GATE: True})
    assert run(trainer) == {"large_network"}
    image = torch.cat([batch["image"] for batch in batches])
    wanted = torch.cat([batch[KNOWLEDGE] for batch in batches])
    agreed = ((trainer.large_network(image)[:, 0] > 0) == (wanted[:, 1] > wanted[:, 0])).float().mean()
    assert agreed > 0.6


@pytest.mark.parametrize(
    ("number", "signals"), [(1, {}), (1, {GATE: False}), (2, {GATE: False})], ids=["no gate", "shut", "round 2"]
)
def test_otherwise_the_public_set_is_not_even_read(number: int, signals: dict[str, bool]) -> None:
    assert run(trainer_with(PublicWarmStart(Refuses(), steps=3), number, **signals)) == set()


def test_it_acts_once_in_the_first_round_that_the_site_is_there_for() -> None:
    handler = PublicWarmStart(public(), steps=3)
    trainer = trainer_with(handler, 2, **{GATE: True})
    assert run(trainer) == {"large_network"}
    trainer.state.federated_round = 3
    assert run(trainer) == set()
    anew = PublicWarmStart(Refuses(), steps=3)
    anew.load_state_dict(handler.state_dict())
    assert run(trainer_with(anew, 4, **{GATE: True})) == set()


def test_a_trainer_that_runs_alone_starts_cold() -> None:
    trainer = reciprocal(Toy(), Toy(), make_batches(1), PublicWarmStart(Refuses(), steps=3))
    assert run(trainer) == set()


def test_the_small_network_can_be_named_instead() -> None:
    handler = PublicWarmStart(public(), steps=3, network="network")
    assert run(trainer_with(handler, **{GATE: True})) == {"network"}


def test_the_set_is_cycled_for_exactly_so_many_steps() -> None:
    class Counted:
        given = 0

        def __iter__(self) -> Iterator[Batch]:
            for batch in public():
                self.given += 1
                yield batch

    loader = Counted()
    run(trainer_with(PublicWarmStart(loader, steps=5), **{GATE: True}))
    assert loader.given == 5


def test_the_learning_rate_of_training_and_its_state_are_untouched() -> None:
    trainer = trainer_with(PublicWarmStart(public(), steps=3), **{GATE: True})
    run(trainer)
    assert [group["lr"] for group in trainer.large_optimizer.param_groups] == [0.0]


def test_labels_teach_where_no_foundation_model_was_asked() -> None:
    batches = make_batches(2, size=8)
    trainer = trainer_with(PublicWarmStart(batches, steps=60, learning_rate=0.05), **{GATE: True})

    def loss() -> float:
        return sum(cross_entropy(trainer.large_network(b["image"]), b["label"]).item() for b in batches)

    before = loss()
    assert run(trainer) == {"large_network"}
    assert loss() < 0.8 * before


def test_an_empty_public_set_is_refused() -> None:
    with pytest.raises(InputError, match="it gives no batch"):
        run(trainer_with(PublicWarmStart([], steps=3), **{GATE: True}))


def test_without_a_gate_it_does_not_wait() -> None:
    assert run(trainer_with(PublicWarmStart(public(), steps=2, gated=False))) == {"large_network"}
    assert run(trainer_with(PublicWarmStart(public(), steps=2))) == set()


def test_at_lambda_zero_the_labels_are_all_that_it_learns_from() -> None:
    torch.manual_seed(3)
    labelled = [{**batch, "label": torch.randint(0, 3, (6,))} for batch in public()]
    plain = [{key: batch[key] for key in ("image", "label")} for batch in labelled]
    ends = []
    for batches in (labelled, plain):
        torch.manual_seed(4)
        trainer = trainer_with(PublicWarmStart(batches, steps=5, knowledge_weight=0.0), **{GATE: True})
        trainer.run()
        ends.append(torch.cat([parameter.flatten() for parameter in trainer.large_network.parameters()]))
    assert torch.equal(*ends)


def end_of(batches: list[Batch], **settings: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    trainer = trainer_with(PublicWarmStart(batches, steps=4, **settings), **{GATE: True})
    run(trainer)
    state: dict[str, torch.Tensor] = trainer.large_network.state_dict()
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_labels_make_up_for_what_is_not_trusted() -> None:
    torch.manual_seed(3)
    answers = public()
    labelled = [{**batch, "label": torch.randint(0, 3, (6,))} for batch in answers]
    labels = [{key: batch[key] for key in ("image", "label")} for batch in labelled]
    assert same(end_of(labelled, trust=0.0), end_of(labels))
    whole, half = end_of(labelled), end_of(labelled, trust=0.5)
    assert same(end_of(labelled, knowledge_weight=0.5), half)  # trust is a factor of lambda
    assert not any(same(one, other) for one in (whole, half) for other in (end_of(answers), end_of(labels)))
    assert not same(whole, half)
