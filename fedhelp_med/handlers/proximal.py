"""Staying near the global model (FedProx, Li et al. 2020, arXiv 1812.06127, equation 2)."""

from typing import Any

import torch
from torch import Tensor

from fedhelp_med.handlers.schedule import Schedule
from fedhelp_med.handlers.term import LossTerm


class ProximalTerm(LossTerm):
    """Adds ``mu / 2 * ||w - w_global||^2`` over the trainable parameters of the trainer's network.

    ``w_global`` is what the network held when the trainer started: the downloaded weights.

    Args:
        weight: mu, a number or a schedule.
    """

    name = "proximal"

    def __init__(self, weight: float | Schedule = 0.01) -> None:
        super().__init__(weight)
        self._anchor: list[Tensor] = []

    def start(self, engine: Any) -> None:
        """Remember the downloaded weights."""
        super().start(engine)
        self._anchor = [p.detach().clone() for p in engine.network.parameters() if p.requires_grad]

    def term(self, engine: Any) -> Tensor:
        """Return half of the squared distance to the downloaded weights."""
        parameters = [p for p in engine.network.parameters() if p.requires_grad]
        distances = [(p - anchor).square().sum() for p, anchor in zip(parameters, self._anchor, strict=True)]
        return 0.5 * torch.stack(distances).sum()
