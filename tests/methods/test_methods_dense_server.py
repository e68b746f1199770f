"""The server's steps on dense output: maps of knowledge, public masks, the mean of uploaded networks."""

import copy
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import torch
from methods_plans import Known
from torch import Tensor, nn

from fedhelp_med.methods.server_steps import distil_updates, warm_start


class DenseServer:
    """A server in memory with a network of one convolution."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.round, self.rounds, self.classes = 0, 4, ("background", "a", "b")
        self.knowledge = Known(classes=self.classes, model_name="stand-in 1")
        self.signals: dict[str, Any] = {}
        self.updates: dict[str, Mapping[str, Tensor]] = {}
        self.batches = batches
        self._start = nn.Conv2d(1, 3, 1).state_dict()
        self.weights = copy.deepcopy(self._start)

    def network(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        network = nn.Conv2d(1, 3, 1)
        network.load_state_dict({**self._start, **(self.weights if weights is None else weights)})
        return network

    def public_batches(self, purpose: str) -> Iterator[dict[str, Tensor]]:
        return cycle(self.batches)

    def record(self, event: str, **details: Any) -> None:
        """Keep nothing."""


def agreement(server: DenseServer, image: Tensor, teacher: Tensor) -> float:
    with torch.inference_mode():
        return (server.network()(image).argmax(1) == teacher.argmax(1)).double().mean().item()


def test_a_warm_start_learns_maps_and_masks() -> None:
    teacher, image = nn.Conv2d(1, 3, 1), torch.randn(4, 1, 8, 8)
    logits = 5 * teacher(image).detach()
    for batch in (
        {"image": image, "knowledge": logits},
        {"image": image, "label": logits.argmax(1, keepdim=True).float()},
        {"image": image, "knowledge": logits, "label": logits.argmax(1, keepdim=True).float()},
    ):
        server = DenseServer([batch])
        warm_start(server, 300, learning_rate=0.05)  # type: ignore[arg-type]
        assert agreement(server, image, logits) > 0.9


def test_the_aggregate_learns_the_mean_of_the_uploaded_maps() -> None:
    teacher, image = nn.Conv2d(1, 3, 1), torch.randn(4, 1, 8, 8)
    server = DenseServer([{"image": image}])
    server.updates = {"a": teacher.state_dict(), "b": teacher.state_dict()}
    distil_updates(server, 400, 0.05)  # type: ignore[arg-type]
    assert agreement(server, image, teacher(image)) > 0.9
