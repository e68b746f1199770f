"""Supervised training on the public set: what a warm start and the server's distillation are."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fedhelp_med.handlers.guidance import KNOWLEDGE
from fedhelp_med.losses import public_loss

Target = Callable[[Tensor, Tensor | None], Tensor | None]
"""Maps public images, ``B, C, H, W[, D]``, and the foundation model's logits to the teacher's logits."""


def train_on_public(
    network: nn.Module,
    batches: Iterator[dict[str, Any]],
    steps: int,
    learning_rate: float,
    *,
    device: torch.device | str = "cpu",
    weight: float = 1.0,
    target: Target = lambda image, knowledge: knowledge,
    labels: bool = True,
    decay: bool = True,
) -> None:
    """Train a network through its task head on what is known of public images (:func:`public_loss`), by Adam.

    Args:
        network: it is left in training mode.
        batches: with ``image`` and ``knowledge`` and/or ``label``, at least ``steps`` of them.
        steps: of the optimiser, one a batch.
        learning_rate: at the start.
        device: where the network is.
        weight: lambda, of the teacher's soft labels; at 0 the labels are all that it learns from.
        target: the teacher, by default the foundation model.
        labels: whether public labels, where there are any, add their cross-entropy.
        decay: let the learning rate decay to 0 along a cosine.

    Raises:
        LogitsError: (a ``ValueError``) for a batch with nothing to learn from.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    network.train()
    for step, batch in enumerate(islice(batches, steps)):
        if decay:
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        image = torch.as_tensor(batch["image"]).to(device)
        knowledge = torch.as_tensor(batch[KNOWLEDGE]).to(device) if KNOWLEDGE in batch and weight else None
        expected = torch.as_tensor(batch["label"]).to(device) if labels and "label" in batch else None
        loss = public_loss(network(image), target(image, knowledge), expected, weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
