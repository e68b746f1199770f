"""Gradient surgery against values computed by hand."""

import torch
from handlers_toys import Gradients, Toy, guided, make_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedhelp_med.handlers import KNOWLEDGE
from fedhelp_med.handlers.projection import projected

numbers = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=3, max_size=3)


def gradient_of(g: list[float], h: list[float]) -> torch.Tensor:
    """The gradient that a term of gradient g gets beside a loss of gradient h."""
    weight = nn.Parameter(torch.zeros(len(g)))
    term, loss = (weight * torch.tensor(g)).sum() + 7, (weight * torch.tensor(h)).sum()
    result = projected(term, loss, [weight])
    assert result.item() == 7
    result.backward()
    return weight.grad


def test_what_opposes_the_loss_is_taken_away() -> None:
    # g . h = -2, |h|^2 = 4: g - (-2 / 4) h = (-1, 3) + (1, 0)
    torch.testing.assert_close(gradient_of([-1.0, 3.0], [2.0, 0.0]), torch.tensor([0.0, 3.0]))


def test_what_agrees_stays() -> None:
    torch.testing.assert_close(gradient_of([1.0, 3.0], [2.0, 0.0]), torch.tensor([1.0, 3.0]))


def test_a_loss_without_gradient_changes_nothing() -> None:
    torch.testing.assert_close(gradient_of([1.0, -3.0], [0.0, 0.0]), torch.tensor([1.0, -3.0]))


@settings(deadline=None)
@given(numbers, numbers)
def test_the_result_never_opposes_the_loss(g: list[float], h: list[float]) -> None:
    assert gradient_of(g, h) @ torch.tensor(h) >= -1e-4


def test_a_parameter_that_the_loss_does_not_reach_keeps_its_gradient() -> None:
    shared, own = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    projected(-shared.sum() + 2 * own.sum(), shared.sum(), [shared, own]).backward()
    assert (shared.grad.item(), own.grad.item()) == (0.0, 2.0)


def test_guidance_that_opposes_the_private_loss_leaves_the_private_gradient_alone_along_it() -> None:
    network, (private,) = Toy(), make_batches(1)
    opposite = 1e3 * (nn.functional.one_hot((private["label"] + 1) % 3, 3).float() - 0.5)
    public = {"image": private["image"], KNOWLEDGE: opposite}
    seen = {}
    for name, weight, project in (("alone", 0.0, False), ("plain", 1.0, False), ("projected", 1.0, True)):
        trainer, _ = guided(network, [private], [public], "head", 3, weight=weight, target="task", project=project)
        gradients = Gradients(network)
        gradients.attach(trainer)
        trainer.run()
        seen[name] = torch.cat([gradient.flatten() for gradient in gradients.seen[0]])
    alone = seen["alone"]
    added = {name: seen[name] - alone for name in ("plain", "projected")}
    assert added["plain"] @ alone < -1e-3 * alone.square().sum()
    assert abs(added["projected"] @ alone) < 1e-5 * alone.norm() * added["plain"].norm()
