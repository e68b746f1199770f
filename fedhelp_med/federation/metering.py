"""How much arithmetic a site's training takes."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from monai.fl.client import ClientAlgo
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks import eval_mode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from fedhelp_med.common.files import write_json
from fedhelp_med.federation.client import FedHelpAlgo
from fedhelp_med.federation.site import client_of
from fedhelp_med.federation.site_messages import SiteJob

FLOPS_FILE = "flops.json"
"""In a site's folder: the floating-point operations of each round's training."""


class FlopMeter:
    """Counts the images that pass through networks while it is open, private and public ones alike.

    A forward with gradients counts three times, for the two products of the backward (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1); one without counts once.

    Args:
        networks: what is counted.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self._networks = networks
        self._passed: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for place, network in enumerate(self._networks):

            def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], place: int = place) -> None:
                images = args[0] if args else next(iter(kwargs.values()))
                self._passed[place, tuple(images.shape[1:])] += len(images) * (3 if torch.is_grad_enabled() else 1)

            self._hooks.append(network.register_forward_pre_hook(count, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def flops(self) -> int:
        """Floating-point operations so far; a multiplication with its addition counts as two."""
        return sum(
            count * forward_flops(self._networks[place], shape) for (place, shape), count in self._passed.items()
        )


def forward_flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one image's way through a network (matrix products and convolutions).

    Args:
        network: any network.
        shape: the image's, ``C, H, W[, D]``.
    """
    device = next((parameter.device for parameter in network.parameters()), None)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), eval_mode(network), counter:
        network(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops())


def metered_client(job: SiteJob) -> ClientAlgo:
    """Return the client that a job describes; it also writes down the arithmetic of each round (``flops.json``)."""
    client = client_of(_Metered, job)
    client.file = job.folder / FLOPS_FILE
    return client


def read_flops(folder: Path) -> int | None:
    """Return the operations of all rounds in a site's folder; None where they were not counted."""
    file = folder / FLOPS_FILE
    return sum(json.loads(file.read_text(encoding="utf-8")).values()) if file.is_file() else None


class _Metered(FedHelpAlgo):
    file: Path
    _fine_tuning = False

    def fine_tune(self, data: ExchangeObject, extra: dict[str, Any]) -> None:
        self._fine_tuning = True
        try:
            super().fine_tune(data, extra)
        finally:
            self._fine_tuning = False

    def train(self, data: ExchangeObject, extra: dict[str, Any] | None = None) -> None:
        with self._meter() as meter:
            super().train(data, extra)
        self._write(lambda before: meter.flops)  # a repeated round replaces its figure

    def get_weights(self, extra: dict[str, Any] | None = None) -> ExchangeObject:
        with self._meter() as meter:  # FedMD predicts what it sends
            result = super().get_weights(extra)
        if meter.flops:
            self._write(lambda before: before + meter.flops)
        return result

    def _meter(self) -> FlopMeter:
        large = self.networks.large
        return FlopMeter(self.trainer.network, *((large,) if large is not None else ()))

    def _write(self, change: Callable[[int], int]) -> None:
        rounds = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        passed = "fine-tuning" if self._fine_tuning else str(self.round)
        write_json(self.file, rounds | {passed: change(rounds.get(passed, 0))})
