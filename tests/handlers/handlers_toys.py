"""A network with a named head, trainers around it, and what they did."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from fedhelp_med.engines import ReciprocalTrainer
from fedhelp_med.handlers import FoundationGuidance

Batch = dict[str, Tensor]


class Toy(nn.Module):
    """Features ``phi`` of width 5, then ``head``; images ``B, 1, 2, 2``."""

    def __init__(self, classes: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        norm = [nn.BatchNorm1d(5)] if batch_norm else []
        self.phi = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), *norm, nn.Tanh())
        self.head = nn.Linear(5, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.phi(image))
        return logits


class Gradients:
    """A handler that keeps, per iteration, the gradients of some parameters after backward."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.seen: list[list[Tensor]] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        parameters = [parameter for module in self.modules for parameter in module.parameters()]
        self.seen.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])


def make_batches(count: int = 1, classes: int = 3, size: int = 4) -> list[Batch]:
    return [{"image": torch.randn(size, 1, 2, 2), "label": torch.randint(0, classes, (size,))} for _ in range(count)]


def supervised(network: nn.Module, batches: list[Batch], *handlers: Any, lr: float = 0.0, **more: Any) -> Any:
    """A trainer; at the default learning rate 0 the weights stay, so that each iteration can be checked alone."""
    options = {
        "max_epochs": 1,
        "loss_function": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(network.parameters(), lr=lr),
        **more,
    }
    return SupervisedTrainer(
        device="cpu",
        train_data_loader=batches,
        network=network,
        train_handlers=list(handlers),
        decollate=False,
        **options,
    )


def guided(network: nn.Module, batches: list[Batch], public: Iterable[Batch], *rest: Any, **settings: Any) -> Any:
    """A trainer with guidance, and its guidance; ``lr``, ``handlers`` and ``trainer`` besides the settings of it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.pop("lr", 0.0))
    handlers, more = settings.pop("handlers", ()), settings.pop("trainer", {})
    guidance = FoundationGuidance(network, optimizer, public, *rest, **settings)
    return supervised(network, batches, guidance, *handlers, optimizer=optimizer, **more), guidance


def reciprocal(proxy: nn.Module, large: nn.Module, batches: list[Batch], *handlers: Any, **more: Any) -> Any:
    """Both networks in one trainer, at learning rate 0."""
    options = {"loss_function": nn.CrossEntropyLoss(), **more}
    return ReciprocalTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        network=proxy,
        optimizer=torch.optim.SGD(proxy.parameters(), lr=0.0),
        large_network=large,
        large_optimizer=torch.optim.SGD(large.parameters(), lr=0.0),
        train_handlers=list(handlers),
        decollate=False,
        **options,
    )


def rising(value: float, length: int) -> Callable[[Any], float]:
    """A schedule from 0 in the first iteration to ``value`` in the iteration ``length``, then constant."""
    return lambda engine: value * min(1.0, (engine.state.iteration - 1) / (length - 1))


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), written out: summed over classes, averaged over images and positions."""

    def probabilities(logits: Tensor) -> Tensor:
        powers = (logits / temperature).exp()
        return powers / powers.sum(1, keepdim=True)

    p, q = probabilities(teacher.detach()), probabilities(student)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()
