"""Guidance by the foundation model: the written-out equation, what stays at the site, what does not move."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from handlers_toys import Batch, Gradients, Toy, divergence, guided, make_batches, rising, supervised
from ignite.engine import Events
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import KNOWLEDGE

CHANNELS = 4
"""Classes of the public set: not the three of the task."""


def public(*keys: str, classes: int = CHANNELS) -> Batch:
    batch = {
        "image": torch.randn(6, 1, 2, 2),
        "label": torch.randint(0, classes, (6,)),
        KNOWLEDGE: torch.randn(6, classes) * 3,
    }
    return {"image": batch["image"], **{key: batch[key] for key in keys}}


class Refuses:
    """A public set that must not be touched."""

    def __iter__(self) -> Iterator[Batch]:
        raise AssertionError("the public set was read")


# The equation


@pytest.mark.parametrize(
    "keys", [("label", KNOWLEDGE), (KNOWLEDGE,), ("label",)], ids=["both", "without labels", "without knowledge"]
)
def test_loss_and_gradient_are_those_of_the_equation(keys: tuple[str, ...]) -> None:
    network, (private,), batch = Toy(), make_batches(1), public(*keys)
    weights = {"weight": 0.5, "knowledge_weight": 0.7, "temperature": 2.0}
    trainer, handler = guided(network, [private], [batch], "head", CHANNELS, **weights)
    gradients = Gradients(network, handler.auxiliary)
    gradients.attach(trainer)

    # CE(h(phi(x)), y) + w (CE(g(phi(x_p)), y_p) + lambda T^2 KL(p_F || p_g))
    g = handler.auxiliary
    task = cross_entropy(network.head(network.phi(private["image"])), private["label"])
    answer = g(network.phi(batch["image"]))
    expected = torch.zeros(())
    if "label" in keys:
        expected = expected + cross_entropy(answer, batch["label"])
    if KNOWLEDGE in keys:
        expected = expected + 0.7 * divergence(batch[KNOWLEDGE], answer, temperature=2.0)
    total = task + 0.5 * expected
    wanted = torch.autograd.grad(total, [*network.parameters(), *g.parameters()])

    trainer.run()
    assert trainer.state.output["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert handler.average == pytest.approx(0.5 * expected.item(), rel=1e-5)
    torch.testing.assert_close(gradients.seen[0], list(wanted))
    assert all(gradient.abs().sum() > 0 for gradient in wanted)


def test_dense_knowledge_counts_per_position() -> None:
    network = BasicUNet(2, 1, 2, features=(2, 2, 4, 4, 4, 2), norm=("group", {"num_groups": 2}))
    private = {"image": torch.randn(1, 1, 32, 32), "label": torch.randint(0, 2, (1, 32, 32))}
    batch = {"image": torch.randn(2, 1, 32, 32), KNOWLEDGE: torch.randn(2, 3, 32, 32)}
    trainer, handler = guided(network, [private], [batch], "final_conv", 3)
    trainer.run()
    features = []
    hook = network.final_conv.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(batch["image"])
    hook.remove()
    expected = divergence(batch[KNOWLEDGE], handler.auxiliary(features[0]), temperature=1.0)
    assert handler.average == pytest.approx(expected.item(), rel=1e-4)


def test_one_sigmoid_channel_takes_knowledge_of_one_channel_and_the_loss_given_for_labels() -> None:
    batch = {**public("label", classes=2), KNOWLEDGE: torch.randn(6, 1)}
    batch["label"] = batch["label"][:, None].float()
    network = Toy()
    trainer, handler = guided(network, make_batches(), [batch], "head", 1, label_loss=nn.BCEWithLogitsLoss())
    trainer.run()
    z = handler.auxiliary(network.phi(batch["image"]))
    two = [torch.cat([torch.zeros_like(logit), logit], 1) for logit in (batch[KNOWLEDGE], z)]
    expected = nn.BCEWithLogitsLoss()(z, batch["label"]) + divergence(*two, temperature=1.0)
    assert handler.average == pytest.approx(expected.item(), rel=1e-5)


def test_the_prediction_and_the_private_loss_are_untouched() -> None:
    network, batches = Toy(), make_batches(1)
    plain = supervised(copy.deepcopy(network), batches)
    trainer, _ = guided(network, batches, [public("label")], "head", CHANNELS)
    plain.run()
    trainer.run()
    assert torch.equal(trainer.state.output["pred"], plain.state.output["pred"])
    assert torch.equal(trainer.state.output["image"], batches[0]["image"])


# Through the task head


def test_knowledge_of_the_tasks_own_classes_can_act_through_the_task_head() -> None:
    network, (private,), batch = Toy(), make_batches(1), public(KNOWLEDGE, classes=3)
    trainer, handler = guided(network, [private], [batch], "head", 3, target="task", weight=2.0)
    gradients = Gradients(network)
    gradients.attach(trainer)
    total = cross_entropy(network(private["image"]), private["label"]) + 2.0 * divergence(
        batch[KNOWLEDGE], network(batch["image"]), temperature=1.0
    )
    wanted = torch.autograd.grad(total, list(network.parameters()))
    trainer.run()
    torch.testing.assert_close(gradients.seen[0], list(wanted))
    assert handler.auxiliary is None
    assert handler.state_dict() == {}
    handler.load_state_dict({})
    assert len(trainer.optimizer.param_groups) == 1


def test_a_task_head_of_one_channel_learns_from_two_classes_and_from_labels() -> None:
    network, batch = Toy(1), {**public(KNOWLEDGE, classes=2), "label": torch.tensor([0, 1, 1, 0, 1, 0])}
    private = [{"image": torch.randn(2, 1, 2, 2), "label": torch.tensor([[0.0], [1.0]])}]
    loss = {"loss_function": nn.BCEWithLogitsLoss()}
    trainer, handler = guided(network, private, [batch], "head", 2, target="task", trainer=loss)
    z = network(batch["image"])
    two = torch.cat([torch.zeros_like(z), z], 1)
    expected = cross_entropy(two, batch["label"]) + divergence(batch[KNOWLEDGE], two, temperature=1.0)
    trainer.run()
    assert handler.average == pytest.approx(expected.item(), rel=1e-5)


def test_knowledge_of_other_classes_cannot() -> None:
    trainer, _ = guided(Toy(), make_batches(), [public(KNOWLEDGE)], "head", 3, target="task")
    with pytest.raises(InputError, match=r"\(6, 3\).*\(6, 4\)"):
        trainer.run()


# What stays at the site


def test_the_auxiliary_head_learns_with_the_trainers_optimizer_and_is_not_exchanged() -> None:
    network = Toy()
    keys = set(network.state_dict())
    trainer, handler = guided(network, make_batches(3), [public("label")], "head", CHANNELS, lr=0.5)
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in (*network.parameters(), *handler.auxiliary.parameters())} == optimised
    before = {key: value.clone() for key, value in handler.state_dict().items()}
    trainer.run()
    assert set(trainer.network.state_dict()) == keys
    assert not any(torch.equal(value, before[key]) for key, value in handler.state_dict().items())
    assert handler.state_dict()["weight"].shape == (CHANNELS, 5)


def test_the_auxiliary_head_trains_although_the_network_was_evaluated_before() -> None:
    trainer, handler = guided(Toy().eval(), make_batches(), [public("label")], "head", CHANNELS)
    handler.auxiliary.eval()
    trainer.run()
    assert handler.auxiliary.training


def test_the_state_comes_back() -> None:
    handlers = [guided(Toy(), make_batches(), [public("label")], "head", CHANNELS)[1] for _ in range(2)]
    saved, other = handlers[0].state_dict(), handlers[1].state_dict()
    assert not torch.equal(saved["weight"], other["weight"])
    handlers[1].load_state_dict(saved)
    assert all(torch.equal(value, saved[key]) for key, value in handlers[1].state_dict().items())
    with pytest.raises(RuntimeError):
        handlers[1].load_state_dict({"weight": saved["weight"]})


# What does not move


@pytest.mark.parametrize("target", ["auxiliary", "task"])
def test_public_batches_do_not_move_running_statistics(target: Any) -> None:
    network, batches = Toy(batch_norm=True), make_batches(3)
    plain = copy.deepcopy(network)
    supervised(plain, batches).run()
    batch = public("label", classes=3)
    batch["image"] = batch["image"] * 10 + 5  # another domain altogether
    trainer, handler = guided(network, batches, [batch], "head", 3, target=target)
    trainer.run()
    assert handler.average > 0
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in network.state_dict().items())
    assert network.phi[2].num_batches_tracked == 3  # the private batches


def test_public_batches_are_normalised_by_their_own_statistics() -> None:
    network, batch = Toy(batch_norm=True), public("label")
    trainer, handler = guided(network, make_batches(), [batch], "head", CHANNELS)
    trainer.run()
    logits = handler.auxiliary(copy.deepcopy(network).train().phi(batch["image"]))
    assert handler.average == pytest.approx(cross_entropy(logits, batch["label"]).item(), rel=1e-5)


def test_no_hook_stays_on_the_network() -> None:
    network = Toy()
    trainer, _ = guided(network, make_batches(2), [public("label")], "head", CHANNELS)
    trainer.run()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


# Weight and public set


def test_at_weight_zero_the_public_set_is_not_even_read() -> None:
    forwards: list[Tensor] = []
    network = Toy()
    network.register_forward_hook(lambda *_: forwards.append(torch.zeros(())))
    trainer, handler = guided(network, make_batches(3), Refuses(), "head", CHANNELS, weight=0.0)
    trainer.run()
    assert len(forwards) == 3  # the private batches
    assert handler.average == 0


def test_a_schedule_decides_when_guidance_acts() -> None:
    batch = public("label")
    network = Toy()
    schedule = rising(2.0, length=3)
    trainer, handler = guided(network, make_batches(1) * 4, [batch], "head", CHANNELS, weight=schedule)
    losses: list[float] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def _(engine: Any) -> None:
        losses.append(engine.state.output["loss"].item())

    trainer.run()
    term = cross_entropy(handler.auxiliary(network.phi(batch["image"])), batch["label"]).item()
    assert [loss - losses[0] for loss in losses] == pytest.approx([0, 1 * term, 2 * term, 2 * term], rel=1e-4)


class Counted:
    """A public set of two batches that remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        for number in range(2):
            self.given.append(number)
            yield public("label")


def test_the_public_set_is_cycled_and_each_run_begins_it_anew() -> None:
    loader = Counted()
    trainer, _ = guided(Toy(), make_batches(3), loader, "head", CHANNELS)
    trainer.run()
    assert loader.given == [0, 1, 0]
    trainer.state.max_epochs = 2
    trainer.run()
    assert loader.given == [0, 1, 0, 0, 1, 0]


def test_it_takes_a_torch_loader() -> None:
    items = [{"image": torch.randn(1, 2, 2), "label": label, KNOWLEDGE: torch.randn(CHANNELS)} for label in (0, 1, 3)]
    loader = torch.utils.data.DataLoader(items, batch_size=2, shuffle=True)
    trainer, handler = guided(Toy(), make_batches(5), loader, "head", CHANNELS)
    trainer.run()
    assert handler.average > 0


# Refused


def test_a_public_batch_with_nothing_to_learn_from_is_refused() -> None:
    trainer, _ = guided(Toy(), make_batches(), [public()], "head", CHANNELS)
    with pytest.raises(InputError, match="neither a label nor an answer of the foundation model"):
        trainer.run()


def test_an_empty_public_set_is_refused() -> None:
    trainer, _ = guided(Toy(), make_batches(), [], "head", CHANNELS)
    with pytest.raises(InputError, match="public set: it gives no batch"):
        trainer.run()


def test_an_unknown_head_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"no module named 'fc'.*head"):
        guided(Toy(), make_batches(), [public("label")], "fc", CHANNELS)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"guidance.head: 'both' is unknown; choose auxiliary or task"):
        guided(Toy(), make_batches(), [], "head", CHANNELS, target="both")
