"""A start from public knowledge for a network that never leaves its site."""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from ignite.engine import Events
from torch import nn
from torch.nn.functional import cross_entropy

from fedhelp_med.handlers.guidance import KNOWLEDGE, cycled
from fedhelp_med.handlers.schedule import GATE
from fedhelp_med.losses import ForwardDistillationLoss, as_categorical, class_indices


class PublicWarmStart:
    """Before round 1, trains the large network on the foundation model's answers to public images.

    Where no foundation model was asked, it learns from the public labels. Where the model is trusted in part, the loss
    is that part of the distillation and the rest of the labels' cross-entropy.

    It acts only when the server's zero-shot gate is open (``engine.state.signals["gate"]``), unless it is told
    otherwise: knowledge of another domain costs more than it gives.

    Args:
        public_loader: batches with ``image`` and ``knowledge`` or ``label``; it is cycled.
        steps: how many batches.
        learning_rate: at the start; it decays to 0 along a cosine.
        network: the trainer's attribute that is trained, ``large_network`` or ``network``.
        knowledge_weight: lambda; at 0 the public labels are all that it learns from.
        trust: in the foundation model, 0 to 1; below 1 the public images need labels.
        gated: wait for the server's gate.
    """

    def __init__(
        self,
        public_loader: Iterable[dict[str, Any]],
        steps: int,
        learning_rate: float = 1e-3,
        network: str = "large_network",
        knowledge_weight: float = 1.0,
        trust: float = 1.0,
        gated: bool = True,
    ) -> None:
        self.public_loader = public_loader
        self.steps = steps
        self.learning_rate = learning_rate
        self.network = network
        self.knowledge_weight = knowledge_weight
        self.trust = trust
        self.gated = gated
        self.done = False

    def attach(self, engine: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Train once, at the start of the site's first round."""
        state = engine.state
        if self.done or (self.gated and not getattr(state, "signals", {}).get(GATE)):
            return
        self.done = True
        network: nn.Module = getattr(engine, self.network)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        distillation = ForwardDistillationLoss()
        network.train()
        for step, batch in enumerate(islice(cycled(self.public_loader), self.steps)):
            optimizer.param_groups[0]["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            logits = as_categorical(network(torch.as_tensor(batch["image"]).to(state.device)))
            trust = self.trust if KNOWLEDGE in batch and self.knowledge_weight else 0.0
            terms = []
            if trust:
                knowledge = torch.as_tensor(batch[KNOWLEDGE]).to(logits.device, logits.dtype)
                terms.append(trust * distillation(logits, as_categorical(knowledge)))
            if trust < 1:
                labels = class_indices(torch.as_tensor(batch["label"]), logits)
                terms.append((1 - trust) * cross_entropy(logits, labels))
            loss = torch.stack(terms).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def state_dict(self) -> dict[str, bool]:
        """Return whether it has acted: a site that is built anew does not start over, one that failed then does."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Restore whether it has acted."""
        self.done = state["done"]
