"""Two tiny networks with batches, MONAI's trainer for one of them and ReciprocalTrainer for both."""

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from fedhelp_med.engines import ReciprocalTrainer

Batch = dict[str, Tensor]


def proxy_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def large_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))


def make_batches(count: int = 3) -> list[Batch]:
    return [{"image": torch.randn(4, 1, 4, 4), "label": torch.randint(0, 3, (4,))} for _ in range(count)]


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=0.05, weight_decay=1e-3)


def alone(network: nn.Module, batches: list[Batch], **options: Any) -> SupervisedTrainer:
    settings = {"max_epochs": 2, "device": "cpu", "loss_function": nn.CrossEntropyLoss(), "decollate": False}
    return SupervisedTrainer(
        network=network, optimizer=adam(network), train_data_loader=batches, **{**settings, **options}
    )


def together(proxy: nn.Module, large: nn.Module, batches: list[Batch], **options: Any) -> ReciprocalTrainer:
    settings = {"max_epochs": 2, "device": "cpu", "loss_function": nn.CrossEntropyLoss(), "decollate": False}
    return ReciprocalTrainer(
        network=proxy,
        optimizer=adam(proxy),
        large_network=large,
        large_optimizer=adam(large),
        train_data_loader=batches,
        **{**settings, **options},
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same values, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
