"""How much each public image counts in guidance."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses import as_categorical
from fedhelp_med.networks import FeatureTap

KEPT = 0.5
"""What a step keeps of the site's centre; the rest is its own private batch's."""


class ImageWeights:
    """The weights of a public batch's images, none of which has a gradient. This class counts all images alike."""

    def attach(self, engine: Any) -> None:
        """Register with a trainer what the weights have to see of it."""

    def start(self) -> None:
        """Begin a run of the trainer (in a federation: a round)."""

    def __call__(self, knowledge: Tensor | None, tap: FeatureTap) -> Tensor | None:
        """Return the weights of a public batch, ``B`` or ``B, spatial``; None for 1 everywhere.

        Args:
            knowledge: the foundation model's logits, ``B, K[, spatial]``; None where they take no part.
            tap: on the features of the batch.
        """
        return None


class ClassBalance(ImageWeights):
    r"""Every class of the foundation model counts alike in sum: an image of class k by :math:`w_k = 1 / (K f_k)`.

    An image's class (in dense knowledge: a position's) is the model's likeliest one, f_k its share of the public set,
    K the number of classes that occur there. The mean weight over the public set is 1, not that over each batch. Where
    the knowledge takes no part (lambda or trust 0), all images count alike.

    The classes are counted once, in the answers alone: no image is read, and the order of the batches does not matter.

    Args:
        answers: the model's logits for each image of the public set, ``K[, spatial]``.
        kind: of knowledge.

    Raises:
        InputError: for an embedding, which has no classes, and where there are no answers.
    """

    def __init__(self, answers: Sequence[Any], kind: str = "logits") -> None:
        if kind == "embedding":
            raise InputError(
                "guidance_weights: 'class' cannot balance the classes of an embedding, which has none; "
                "choose equal or nearness"
            )
        if not answers:
            raise InputError(
                "guidance_weights: 'class' counts the foundation model's likeliest classes, but the public set comes "
                "without its knowledge; name a ledger, or choose equal or nearness"
            )
        self.answers = answers

    @cached_property
    def by_class(self) -> Tensor:
        """w, one number a class (two for one sigmoid channel)."""
        classes = max(2, len(self.answers[0]))
        counts = torch.zeros(classes, dtype=torch.int64)
        for answer in self.answers:
            counts += torch.bincount(_likeliest(torch.as_tensor(answer)[None]).flatten(), minlength=classes)
        # A class that only a transform brings about (counted 0 times) weighs as if it had been seen once.
        return counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))

    def __call__(self, knowledge: Tensor | None, tap: FeatureTap) -> Tensor | None:
        """Return the weight of each image's class, ``B``, or of each position's, ``B, spatial``."""
        return None if knowledge is None else self.by_class.to(knowledge.device)[_likeliest(knowledge)]


class Nearness(ImageWeights):
    r"""A public image counts by how near its features are to the site's own: :func:`nearness` of the distances.

    The features are those before the head, averaged over the positions; the site's centre is the mean of those of the
    private batches in the round, each step weighing half as much as the one after it. A public batch of one image
    always has the weight 1.

    It costs no forward pass: a tap is open while the trainer computes its private prediction, in which the head has to
    run once.

    Args:
        network: the trainer's network.
        head: dotted name of its task head.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        self.network = network
        self.head = head
        self.centre: Tensor | None = None
        self._open = ExitStack()
        self._tap: FeatureTap | None = None

    def attach(self, engine: Any) -> None:
        """Watch the private forward pass of every step."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._watch)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._remember)

    def start(self) -> None:
        """Forget the centre, so that a round does not depend on the rounds before it."""
        self.centre = None

    def _watch(self) -> None:
        self._tap = self._open.enter_context(FeatureTap(self.network, self.head))

    def _remember(self) -> None:
        self._open.close()  # every tap, also that of an earlier step that failed
        tap, self._tap = self._tap, None  # with the tap goes the graph that it holds
        assert tap is not None
        now = _pooled(tap).mean(0)
        self.centre = now if self.centre is None else KEPT * self.centre + (1 - KEPT) * now

    def __call__(self, knowledge: Tensor | None, tap: FeatureTap) -> Tensor:
        """Return the weights, ``B``."""
        assert self.centre is not None, "attach the weights to the trainer"
        return nearness((_pooled(tap) - self.centre).square().sum(1))


def nearness(squares: Tensor) -> Tensor:
    r"""Return :math:`\exp(-d^2 / 2m)` with m the mean of d² in the batch, divided by its mean.

    The mean weight is 1; the unit of the distances does not matter.

    Args:
        squares: d², ``B``.
    """
    weights = torch.exp(-squares / (2 * squares.mean()).clamp_min(torch.finfo(squares.dtype).tiny))
    return weights / weights.mean()


def pooled(values: Tensor) -> Tensor:
    """Return the mean over the positions of ``B, C[, spatial]``: ``B, C``."""
    return values.flatten(2).mean(2) if values.ndim > 2 else values


def _pooled(tap: FeatureTap) -> Tensor:
    return pooled(tap.features.detach().float())


def _likeliest(logits: Tensor) -> Tensor:
    return as_categorical(logits).argmax(1)
