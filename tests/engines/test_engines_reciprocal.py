"""ReciprocalTrainer against MONAI's own trainer: without handlers two networks train as if alone, bit for bit."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engines_toys import Batch, alone, large_network, make_batches, proxy_network, same, together
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, ValidationHandler, from_engine
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.engines import LARGE_LOSS, LARGE_PRED
from fedhelp_med.handlers import ForwardDistillation, RankingDistillation, SplitMetric
from fedhelp_med.metrics import accuracy


def trained_with(*handlers: Any) -> tuple[nn.Module, nn.Module]:
    """A proxy and a large network after six iterations; everything but the handlers is the same at every call."""
    torch.manual_seed(7)
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    together(proxy, large, batches, train_handlers=list(handlers)).run()
    return proxy, large


# Without handlers


@pytest.mark.parametrize("options", [{}, {"decollate": True}, {"optim_set_to_none": True}], ids=str)
def test_both_networks_train_as_if_alone(options: dict[str, Any]) -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    expected = copy.deepcopy(proxy), copy.deepcopy(large)
    for network in expected:
        alone(network, batches, **options).run()
    initial = copy.deepcopy(proxy), copy.deepcopy(large)
    together(proxy, large, batches, **options).run()
    assert same(proxy, expected[0])
    assert same(large, expected[1])
    assert not same(proxy, initial[0])
    assert not same(large, initial[1])


def test_the_losses_and_gradients_are_those_of_each_network_alone() -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches(1)
    losses = [nn.CrossEntropyLoss()(copy.deepcopy(n)(batches[0]["image"]), batches[0]["label"]) for n in (proxy, large)]
    expected = []
    for network in (proxy, large):
        twin = copy.deepcopy(network).train()
        loss = nn.CrossEntropyLoss()(twin(batches[0]["image"]), batches[0]["label"])
        expected.append(torch.autograd.grad(loss, list(twin.parameters())))
    trainer, seen = together(proxy, large, batches, max_epochs=1), []

    @trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def _(engine: Any) -> None:
        seen.extend([p.grad.clone() for p in n.parameters()] for n in (engine.network, engine.large_network))

    trainer.run()
    for gradients, wanted in zip(seen, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
        assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert trainer.state.output["loss"].item() == losses[0].item()
    assert trainer.state.output[LARGE_LOSS].item() == losses[1].item()


def test_the_network_is_the_proxy_and_holds_nothing_of_the_large_one() -> None:
    proxy, large = proxy_network(), large_network()
    trainer = together(proxy, large, make_batches())
    assert trainer.network is proxy  # what MONAI's FL client reads and sends
    assert trainer.large_network is large
    assert not {id(p) for p in large.parameters()} & {id(p) for p in trainer.network.parameters()}
    assert {id(p) for g in trainer.optimizer.param_groups for p in g["params"]} == {id(p) for p in proxy.parameters()}


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_cleared_as_monais_trainer_does(to_none: bool) -> None:
    def cleared(trainer: SupervisedTrainer, *networks: nn.Module) -> list[bool]:
        kinds: list[bool] = []
        trainer.add_event_handler(
            IterationEvents.FORWARD_COMPLETED,
            lambda _: kinds.extend(p.grad is None for network in networks for p in network.parameters()),
        )
        trainer.run()
        return kinds

    options = {"max_epochs": 1, "optim_set_to_none": to_none}
    proxy, large, batches = proxy_network(), large_network(), make_batches(2)
    both = cleared(together(proxy, large, batches, **options), proxy, large)
    own = large_network()
    expected = cleared(alone(own, batches, **options), own)
    assert [*both[6:10], *both[16:]] == expected  # two iterations: six parameters of the proxy, four of the large
    assert all(both[10:]) == to_none


def test_the_run_can_be_continued_as_monais_can() -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    expected = copy.deepcopy(large)
    alone(expected, batches, max_epochs=2).run()
    trainer = together(proxy, large, batches, max_epochs=1)
    trainer.run()
    trainer.state.max_epochs = 2
    trainer.run()
    assert same(large, expected)


def test_networks_are_put_into_training_at_every_iteration() -> None:
    proxy, large = proxy_network().eval(), large_network().eval()
    trainer = together(proxy, large, make_batches())
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: (proxy.eval(), large.eval()))
    modes = []
    for network in (proxy, large):
        network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer.run()
    assert modes == [True] * 12


# With handlers


def test_forward_distillation_changes_the_proxy_only() -> None:
    proxy, large = trained_with()
    taught_proxy, teacher = trained_with(ForwardDistillation(1.0))
    assert same(teacher, large)
    assert not same(taught_proxy, proxy)


def test_ranking_distillation_changes_the_large_network_only() -> None:
    proxy, large = trained_with()
    teacher, taught_large = trained_with(RankingDistillation(1.0, margin=2.0))
    assert same(teacher, proxy)
    assert not same(taught_large, large)


def test_both_directions_use_one_forward_of_each_network_per_batch() -> None:
    proxy, large, forwards = proxy_network(), large_network(), {"proxy": 0, "large": 0}
    for name, network in (("proxy", proxy), ("large", large)):

        def count(*_: Any, name: str = name) -> None:
            forwards[name] += 1

        network.register_forward_hook(count)
    handlers = [ForwardDistillation(1.0), RankingDistillation(1.0)]
    together(proxy, large, make_batches(3), max_epochs=2, train_handlers=handlers).run()
    assert forwards == {"proxy": 6, "large": 6}
    assert all(handler.average > 0 for handler in handlers)  # both have acted


def test_events_follow_each_other_as_in_monais_trainer() -> None:
    def order(trainer: SupervisedTrainer) -> list[str]:
        events: list[str] = []
        for event in (*IterationEvents, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
            trainer.add_event_handler(event, lambda _, name=event.name: events.append(name))
        trainer.run()
        return events

    events = order(together(proxy_network(), large_network(), make_batches(1), max_epochs=1))
    assert events == order(alone(large_network(), make_batches(1), max_epochs=1))
    assert [event for event in events if event.endswith("COMPLETED")] == [
        "FORWARD_COMPLETED",
        "LOSS_COMPLETED",
        "BACKWARD_COMPLETED",
        "MODEL_COMPLETED",
        "ITERATION_COMPLETED",
    ]


def test_each_event_finds_what_it_needs() -> None:
    trainer, found = together(proxy_network(), large_network(), make_batches(1), max_epochs=1), {}
    for event in IterationEvents:
        trainer.add_event_handler(event, lambda engine, name=event.name: found.update({name: set(engine.state.output)}))
    trainer.run()
    predictions = {"image", "label", "pred", LARGE_PRED}
    assert found["FORWARD_COMPLETED"] == predictions
    assert found["LOSS_COMPLETED"] == found["MODEL_COMPLETED"] == {*predictions, "loss", LARGE_LOSS}


class Records(logging.Handler):
    """The lines that a logger wrote."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def every_item(output: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of an output, decollated or not."""
    if isinstance(output, dict):
        return output["pred"], output["label"]
    return torch.stack([item["pred"] for item in output]), torch.tensor([int(item["label"]) for item in output])


@pytest.mark.parametrize("decollate", [True, False])
def test_monais_handlers_and_metrics_work(decollate: bool) -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=batches,
        network=proxy,
        key_val_metric={"accuracy": SplitMetric(accuracy)},
        decollate=False,
    )
    read_loss = from_engine(["loss"], first=True) if decollate else lambda output: output["loss"].item()
    log = Records(f"stats-{decollate}")
    trainer = together(
        proxy,
        large,
        batches,
        decollate=decollate,
        key_train_metric={"accuracy": SplitMetric(accuracy, every_item)},
        train_handlers=[
            ValidationHandler(interval=1, validator=evaluator),
            StatsHandler(name=f"stats-{decollate}", tag_name="loss", output_transform=read_loss),
            ForwardDistillation(0.5),
            RankingDistillation(0.5),
        ],
    )
    trainer.run()
    assert evaluator.state.epoch == 2  # one in each of its two runs
    assert 0 <= evaluator.state.metrics["accuracy"] <= 1
    assert 0 <= trainer.state.metrics["accuracy"] <= 1
    assert trainer.state.best_metric_epoch in (1, 2)
    assert sum("loss:" in line for line in log.lines) == 6
    if decollate:
        assert {*trainer.state.output[0]} == {"image", "label", "pred", "loss", LARGE_PRED, LARGE_LOSS}
        assert len(trainer.state.output) == 4


def test_further_arguments_of_a_batch_reach_both_networks() -> None:
    class Scaled(nn.Linear):
        def forward(self, image: Tensor, factor: float, shift: float = 0.0) -> Tensor:
            seen.append((factor, shift))
            return super().forward(image.flatten(1)) * factor + shift

    def prepare(batch: Batch, *_: Any, **__: Any) -> tuple[Tensor, Tensor, tuple[float], dict[str, float]]:
        return batch["image"], batch["label"], (2.0,), {"shift": 1.0}

    seen: list[tuple[float, float]] = []
    together(Scaled(16, 3), Scaled(16, 3), make_batches(1), max_epochs=1, prepare_batch=prepare).run()
    assert seen == [(2.0, 1.0)] * 2


# Refused


@pytest.mark.parametrize(("option", "value"), [("accumulation_steps", 2), ("compile", True)])
def test_unsupported_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"ReciprocalTrainer: {option}={value!r} is not supported; leave it at"):
        together(proxy_network(), large_network(), make_batches(), **{option: value})


def test_their_neutral_values_are_welcome() -> None:
    batches = make_batches()
    trainer = together(proxy_network(), large_network(), batches, accumulation_steps=1, compile=False)
    trainer.run()
    assert trainer.state.iteration == trainer.state.max_epochs * len(batches) > 0


@pytest.mark.parametrize("share", [lambda n: n, lambda n: nn.Sequential(nn.Flatten(), nn.Linear(16, 16), n[1])])
def test_shared_parameters_are_refused(share: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(InputError, match="large_network shares parameters with network; build it separately"):
        together(network, share(network), make_batches())


def test_a_missing_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch data"):
        together(proxy_network(), large_network(), [None]).run()  # type: ignore[list-item]
