"""Guidance by the foundation model's knowledge at a small site (arXiv 2412.19654, knowledge-guided surrogate)."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers.schedule import Schedule
from fedhelp_med.handlers.term import LossTerm
from fedhelp_med.losses import ForwardDistillationLoss
from fedhelp_med.networks import FeatureTap, auxiliary_head, frozen_statistics, named_module

KNOWLEDGE = "knowledge"
"""Key of the foundation model's logits in a public batch."""


class FoundationGuidance(LossTerm):
    """Adds the public batch's loss: ``CE(g(phi(x_p)), y_p) + lambda * T^2 * KL(p_F(x_p) || p_g(x_p))``.

    phi is the trainer's network up to its head, g an auxiliary head on the same features that stays at the site
    (its parameters join the trainer's optimiser, its state is in ``state_dict``), F the foundation model, whose logits
    come with the public batch under ``knowledge``. A public set without labels gives the KL term alone, one without
    knowledge the supervised term alone. Where F's classes are the task's, ``target="task"`` lets the knowledge act
    through the task head instead.

    The public batch does not move running statistics.

    Args:
        public_loader: batches with ``image`` (``B, C, H, W[, D]``) and ``knowledge`` and/or ``label``; it is cycled.
        head: dotted name of the network's task head.
        channels: outputs of g: the classes of F, or of the public set.
        weight: scale of the whole public loss, a number or a schedule.
        knowledge_weight: lambda.
        temperature: T.
        target: ``auxiliary`` or ``task``.
        label_loss: the supervised loss on public labels; cross-entropy by default.

    Raises:
        InputError: for an unknown ``target``, or a batch with neither labels nor knowledge.
    """

    name = "guidance"

    def __init__(
        self,
        public_loader: Iterable[dict[str, Any]],
        head: str,
        channels: int,
        weight: float | Schedule = 1.0,
        knowledge_weight: float = 1.0,
        temperature: float = 1.0,
        target: Literal["auxiliary", "task"] = "auxiliary",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(weight)
        if target not in ("auxiliary", "task"):
            raise InputError(f"guidance.head: {target!r} is unknown; choose auxiliary or task")
        self.public_loader = public_loader
        self.head_name = head
        self.channels = channels
        self.knowledge_weight = knowledge_weight
        self.target = target
        self.distillation = ForwardDistillationLoss(temperature)
        self.label_loss = nn.CrossEntropyLoss() if label_loss is None else label_loss
        self.auxiliary: nn.Module | None = None
        self._batches: Iterator[dict[str, Any]] = iter(())

    def attach(self, engine: Any) -> None:
        """Build the auxiliary head on the trainer's network and register with the trainer."""
        if self.target == "auxiliary":
            self.auxiliary = auxiliary_head(engine.network, self.head_name, self.channels)
            engine.optimizer.add_param_group({"params": list(self.auxiliary.parameters())})
        else:
            named_module(engine.network, self.head_name)
        super().attach(engine)

    def start(self, engine: Any) -> None:
        """Begin a new pass through the public set, so that a round does not depend on the rounds before it."""
        super().start(engine)
        self._batches = _cycle(self.public_loader)

    def term(self, engine: Any) -> Tensor:
        """Return the public loss of the next public batch."""
        batch = next(self._batches)
        image = torch.as_tensor(batch[Keys.IMAGE]).to(engine.state.device, non_blocking=engine.non_blocking)
        logits = self._logits(engine.network, image)
        terms: list[Tensor] = []
        if Keys.LABEL in batch:
            terms.append(self.label_loss(logits, torch.as_tensor(batch[Keys.LABEL]).to(logits.device)))
        if KNOWLEDGE in batch and self.knowledge_weight != 0:
            knowledge = torch.as_tensor(batch[KNOWLEDGE]).to(logits.device, logits.dtype)
            terms.append(self.knowledge_weight * self.distillation(logits, knowledge))
        if not terms:
            raise InputError("public batch: it has neither a label nor the foundation model's knowledge to learn from")
        return torch.stack(terms).sum()

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        infer = SimpleInferer()
        with frozen_statistics(network):
            if self.auxiliary is None:
                logits: Tensor = infer(image, network)
                return logits
            self.auxiliary.train()
            with FeatureTap(network, self.head_name) as tap:
                infer(image, network)
            guided: Tensor = self.auxiliary(tap.features)
        return guided

    def state_dict(self) -> dict[str, Tensor]:
        """Return the auxiliary head's state: personal, kept at the site, never exchanged."""
        return {} if self.auxiliary is None else self.auxiliary.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the auxiliary head."""
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state)


def _cycle(loader: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise InputError("public set: it gives no batch; lower its batch size or add images")
