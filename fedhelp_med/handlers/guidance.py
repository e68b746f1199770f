"""Guidance by the foundation model's knowledge at a small site (arXiv 2412.19654, knowledge-guided surrogate)."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers.image_weights import ClassBalance, ImageWeights, Nearness, pooled
from fedhelp_med.handlers.projection import projected
from fedhelp_med.handlers.schedule import Schedule
from fedhelp_med.handlers.term import LossTerm
from fedhelp_med.losses import (
    EmbeddingDistillationLoss,
    ForwardDistillationLoss,
    as_categorical,
    class_indices,
    sum_of_terms,
)
from fedhelp_med.losses.logits import weighted_mean
from fedhelp_med.losses.public import NEITHER
from fedhelp_med.networks import FeatureTap, auxiliary_head, frozen_statistics

KNOWLEDGE = "knowledge"
"""Key of the foundation model's logits in a public batch."""


class FoundationGuidance(LossTerm):
    """Adds the public batch's loss: ``CE(g(phi(x_p)), y_p) + lambda * T^2 * KL(p_F(x_p) || p_g(x_p))``.

    phi is the trainer's network up to its head, g an auxiliary head on the same features that stays at the site
    (its parameters join the trainer's optimiser, its state is in ``state_dict``), F the foundation model, whose logits
    come with the public batch under ``knowledge``. A public set without labels gives the KL term alone, one without
    knowledge the supervised term alone. Where F's classes are the task's, ``target="task"`` lets the knowledge act
    through the task head instead.

    Where F's knowledge is an embedding, g projects the features to its dimension (averaged over the positions of a
    dense network), lambda weighs the distance of the two (:class:`EmbeddingDistillationLoss`), and public labels are
    not used: g has no classes.

    With ``weights``, both terms are means over the public images (in dense output: positions) in which some count more:
    those of rarer classes (:class:`ClassBalance`) or near the site's own images (:class:`Nearness`).

    The public batch does not move running statistics.

    Args:
        network: the trainer's network. (MONAI attaches handlers before a trainer has one to ask.)
        optimizer: the trainer's optimiser.
        public_loader: batches with ``image`` (``B, C, H, W[, D]``) and ``knowledge`` and/or ``label``; it is cycled.
        head: dotted name of the network's task head.
        channels: outputs of g: the classes of F, or of the public set; the dimension of F's embedding.
        weight: scale of the whole public loss, a number or a schedule.
        knowledge_weight: lambda.
        temperature: T.
        target: ``auxiliary`` or ``task``.
        project: take away what opposes the private loss's gradient (a second backward pass through both).
        label_loss: the supervised loss on public labels (``B``, or masks ``B, 1, spatial``); by default cross-entropy,
            averaged over images and positions.
        kind: of F's knowledge.
        trust: a factor of lambda: how good F is known to be.
        weights: of the public images: ``equal``, ``class`` or ``nearness``. ``class`` takes a torch loader of a MONAI
            dataset, whose items it counts.

    Raises:
        InputError: for an unknown ``target``, ``head`` or ``weights``, an embedding that should act through the task
            head or be balanced by class, or a batch with nothing to learn from.
    """

    name = "guidance"

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        public_loader: Iterable[dict[str, Any]],
        head: str,
        channels: int,
        weight: float | Schedule = 1.0,
        knowledge_weight: float = 1.0,
        temperature: float = 1.0,
        target: Literal["auxiliary", "task"] = "auxiliary",
        project: bool = False,
        label_loss: nn.Module | None = None,
        kind: Literal["logits", "mask logits", "embedding"] = "logits",
        trust: float = 1.0,
        weights: Literal["equal", "class", "nearness"] = "equal",
    ) -> None:
        super().__init__(weight)
        if target not in ("auxiliary", "task"):
            raise InputError(f"guidance.head: {target!r} is unknown; choose auxiliary or task")
        self.is_embedding = kind == "embedding"
        if self.is_embedding and target == "task":
            raise InputError("guidance.head: 'task' cannot learn an embedding, which has no classes; choose auxiliary")
        self.network = network
        self.public_loader = public_loader
        self.head_name = head
        self.knowledge_weight = trust * knowledge_weight
        self.distillation: nn.Module = (
            EmbeddingDistillationLoss() if self.is_embedding else ForwardDistillationLoss(temperature)
        )
        self.project = project
        self.label_loss = label_loss
        self.image_weights = ImageWeights()
        if weights == "class":
            self.image_weights = ClassBalance(_answers(public_loader), kind)
        elif weights == "nearness":
            self.image_weights = Nearness(network, head)
        elif weights != "equal":
            raise InputError(f"guidance_weights: {weights!r} is unknown; choose equal, class or nearness")
        self._batches: Iterator[dict[str, Any]] = iter(())
        self.auxiliary: nn.Module | None = None
        if target == "auxiliary":
            self.auxiliary = auxiliary_head(network, head, channels)
            optimizer.add_param_group({"params": list(self.auxiliary.parameters())})

    def attach(self, engine: Any) -> None:
        """Register the term, and what its weights have to see, with a trainer."""
        super().attach(engine)
        self.image_weights.attach(engine)

    def start(self, engine: Any) -> None:
        """Begin a new pass through the public set, so that a round does not depend on the rounds before it."""
        super().start(engine)
        self.image_weights.start()
        self._batches = cycled(self.public_loader)

    def term(self, engine: Any) -> Tensor:
        """Return the public loss of the next public batch."""
        batch = next(self._batches)
        image = torch.as_tensor(batch[Keys.IMAGE]).to(engine.state.device, non_blocking=engine.non_blocking)
        answer, tap = self._answer(image)
        knowledge = None
        if KNOWLEDGE in batch and self.knowledge_weight != 0:
            knowledge = torch.as_tensor(batch[KNOWLEDGE]).to(answer.device, answer.dtype)
        weights = self.image_weights(knowledge, tap)
        supervised = distilled = None
        if Keys.LABEL in batch and not self.is_embedding:
            labels = torch.as_tensor(batch[Keys.LABEL]).to(answer.device)
            supervised = self._supervised(answer, labels, weights)
        if knowledge is not None:
            pair = (answer, knowledge) if self.is_embedding else (as_categorical(answer), as_categorical(knowledge))
            distilled = self.knowledge_weight * self.distillation(*pair, weights)
        total = sum_of_terms(supervised, distilled, absent="no embedding" if self.is_embedding else NEITHER)
        if not self.project:
            return total
        heads = () if self.auxiliary is None else self.auxiliary.parameters()
        return projected(total, engine.state.output[self.loss_key], (*self.network.parameters(), *heads))

    def _supervised(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if self.label_loss is None:
            logits = as_categorical(logits)
            indices = class_indices(labels, logits)
            if weights is None:
                return cross_entropy(logits, indices)
            return weighted_mean(cross_entropy(logits, indices, reduction="none"), weights)
        if weights is None:
            loss: Tensor = self.label_loss(logits, labels)
            return loss
        # Of a loss that is given only an image's whole value is known: it counts by the mean weight of its positions.
        losses = [self.label_loss(*image) for image in zip(logits[:, None], labels[:, None], strict=True)]
        return weighted_mean(torch.stack(losses), weights.reshape(len(weights), -1).mean(1))

    def _answer(self, image: Tensor) -> tuple[Tensor, FeatureTap]:
        """Return what the head through which guidance acts says of the images, and the tap on what it reads."""
        with frozen_statistics(self.network), FeatureTap(self.network, self.head_name) as tap:
            answer: Tensor = self.network(image)
        if self.auxiliary is not None:
            self.auxiliary.train()
            answer = self.auxiliary(tap.features)
        return (pooled(answer) if self.is_embedding else answer), tap

    def state_dict(self) -> dict[str, Tensor]:
        """Return the auxiliary head's state: personal, kept at the site, never exchanged."""
        return {} if self.auxiliary is None else self.auxiliary.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the auxiliary head."""
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state)


def cycled(loader: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass through a loader again and again, each time in its next order.

    Raises:
        InputError: when it gives no batch at all.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise InputError("public set: it gives no batch; lower its batch size or add images")


def _answers(loader: Any) -> list[Any]:
    """Return the foundation model's answers to a loader's images; no image is read."""
    items = getattr(getattr(loader, "dataset", None), "data", ())
    return [item[KNOWLEDGE] for item in items if KNOWLEDGE in item]
