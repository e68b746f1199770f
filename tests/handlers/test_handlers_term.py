"""What all loss terms share: when they act, what they add, what they report."""

from typing import Any

import pytest
import torch
from handlers_toys import Gradients, Toy, make_batches, reciprocal, rising, supervised
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from fedhelp_med.engines import LARGE_LOSS
from fedhelp_med.handlers import LossTerm


class Weighs(LossTerm):
    """A term of one's own: the squared length of the head's bias, times the iteration."""

    name = "length"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = 0

    def term(self, engine: Any) -> Tensor:
        self.calls += 1
        length: Tensor = engine.network.head.bias.square().sum()
        return engine.state.iteration * length


def length(network: Toy) -> float:
    return network.head.bias.square().sum().item()


def test_a_term_joins_the_loss_before_backward() -> None:
    network, batches = Toy(), make_batches(1)
    gradients = {}
    for weight in (0.0, 0.5):
        recorder = Gradients(network.head)
        trainer = supervised(network, batches, Weighs(weight), recorder)
        trainer.run()
        gradients[weight] = recorder.seen[0][1]
    torch.testing.assert_close(gradients[0.5] - gradients[0.0], 0.5 * 2 * network.head.bias.detach())


def test_terms_add_up_in_any_order() -> None:
    network, batches = Toy(), make_batches(1)
    plain = supervised(network, batches)
    plain.run()
    several = supervised(network, batches, Weighs(0.5), Weighs(2.0))
    several.run()
    added = several.state.output["loss"].item() - plain.state.output["loss"].item()
    assert added == pytest.approx(2.5 * length(network), rel=1e-4)


def test_a_term_joins_the_loss_that_it_names() -> None:
    proxy, large, batches = Toy(), Toy(), make_batches(1)
    plain = reciprocal(proxy, large, batches)
    plain.run()
    trainer = reciprocal(proxy, large, batches, Weighs(2.0, loss_key=LARGE_LOSS))
    trainer.run()
    assert trainer.state.output["loss"].item() == plain.state.output["loss"].item()
    added = trainer.state.output[LARGE_LOSS].item() - plain.state.output[LARGE_LOSS].item()
    assert added == pytest.approx(2.0 * length(proxy), rel=1e-4)


def test_the_average_is_over_the_iterations_in_which_the_term_acted() -> None:
    network = Toy()
    handler = Weighs(rising(1.0, length=3))  # 0, 1/2, 1, 1
    supervised(network, make_batches(4), handler).run()
    assert handler.calls == 3
    assert handler.average == pytest.approx((0.5 * 2 + 1 * 3 + 1 * 4) / 3 * length(network), rel=1e-5)


def test_the_average_starts_anew_with_each_run() -> None:
    network = Toy()
    handler = Weighs(1.0)
    trainer = supervised(network, make_batches(2), handler)
    trainer.run()
    assert handler.average == pytest.approx((1 + 2) / 2 * length(network), rel=1e-5)
    trainer.state.max_epochs = 2
    trainer.run()
    assert handler.average == pytest.approx((3 + 4) / 2 * length(network), rel=1e-5)


def test_a_term_that_never_acted_has_the_average_zero() -> None:
    handler = Weighs(0)
    assert handler.average == 0
    supervised(Toy(), make_batches(2), handler).run()
    assert (handler.calls, handler.average) == (0, 0)


def test_the_average_holds_no_graph() -> None:
    handler = Weighs(1.0)
    supervised(Toy(), make_batches(2), handler).run()
    assert handler._sum is not None
    assert not handler._sum.requires_grad


def test_a_term_that_acts_alone_does_so_between_loss_and_backward() -> None:
    trainer, order = supervised(Toy(), make_batches(1)), []

    class Notes(Weighs):
        def term(self, engine: Any) -> Tensor:
            order.append("term")
            return super().term(engine)

    for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.BACKWARD_COMPLETED, Events.ITERATION_COMPLETED):
        trainer.add_event_handler(event, lambda _, name=event.name: order.append(name))
    Notes(1.0).attach(trainer)
    trainer.run()
    assert order == ["FORWARD_COMPLETED", "term", "BACKWARD_COMPLETED", "ITERATION_COMPLETED"]


def test_a_term_must_say_what_it_is() -> None:
    with pytest.raises(TypeError, match="term"):
        LossTerm(1.0)  # type: ignore[abstract]


def test_the_weight_may_be_any_function_of_the_engine() -> None:
    handler = Weighs(lambda engine: 10.0 if engine.state.iteration == 2 else 0.0)
    network = Toy()
    supervised(network, make_batches(3), handler).run()
    assert handler.average == pytest.approx(10 * 2 * length(network), rel=1e-5)
    assert torch.is_tensor(handler._sum)
