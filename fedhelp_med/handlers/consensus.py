"""FedMD's side of a trainer: predictions on public images travel instead of weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.networks import eval_mode
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.losses import as_categorical


@runtime_checkable
class Messenger(Protocol):
    """A handler that says what travels, where it is not the network's weights."""

    def outgoing(self, engine: Any) -> dict[str, Tensor]:
        """Return what the site sends after a round."""

    def incoming(self, message: Mapping[str, Tensor]) -> None:
        """Take what the server made of all sites' messages, before a round.

        Raises:
            InputError: when it does not fit.
        """


class PublicConsensus:
    """Digest and revisit (Li and Wang 2019, arXiv 1910.03581, algorithm 1), for a network of any architecture.

    After a round a site sends its class scores (logits) on some public images, the same at every site and others in
    each round; the server averages them. In the next round the network first *digests*: it approaches this consensus,
    ``mean |z - z_consensus|`` over images, classes and positions; then it *revisits* its private data, as its
    trainer does anyway.

    Args:
        network: the trainer's network.
        dataset: public images without augmentation; every item has an ``image`` (`C, H, W[, D]`).
        images: how many of them are asked about in a round.
        passes: how often a network sees them while it digests.
        batch_size: of both.
        learning_rate: of the digestion's Adam.
    """

    PREDICTIONS = "predictions"

    def __init__(
        self,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        images: int = 64,
        passes: int = 2,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.images = min(images, len(dataset))
        self.passes = passes
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self._consensus: Tensor | None = None

    def attach(self, engine: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def incoming(self, message: Mapping[str, Tensor]) -> None:
        """Keep the consensus for the digestion of this round.

        Args:
            message: ``predictions``, logits ``images, C[, spatial]``.

        Raises:
            InputError: when it holds something else, or is about another number of images.
        """
        if set(message) != {self.PREDICTIONS} or len(message[self.PREDICTIONS]) != self.images:
            found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in message.items())
            raise InputError(
                f"consensus: expected {self.PREDICTIONS} on {self.images} public images, received {found}; "
                "all sites need the same public set"
            )
        self._consensus = message[self.PREDICTIONS]

    def outgoing(self, engine: Any) -> dict[str, Tensor]:
        """Return the logits (`images, C[, spatial]`) on the public images of the next round."""
        loader = self._loader(engine.state.federated_round + 1, range(self.images))
        with torch.inference_mode(), eval_mode(self.network):
            logits = [self._logits(engine, batch["image"]).float().cpu() for batch in loader]
        return {self.PREDICTIONS: torch.cat(logits)}

    def __call__(self, engine: Any) -> None:
        """Digest the consensus before the private data are revisited."""
        consensus, self._consensus = self._consensus, None
        if consensus is None:
            return
        number = engine.state.federated_round
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        self.network.train()
        for places, batch in self._shuffled(number):
            logits = self._logits(engine, batch["image"])
            loss = l1_loss(logits, consensus[places].to(logits))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _shuffled(self, number: int) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
        """Yield the places of public images in the message and these images, each pass in an order of its own."""
        orders = (torch.randperm(self.images).tolist() for _ in range(self.passes))
        for order in orders:
            chunks = (order[first : first + self.batch_size] for first in range(0, self.images, self.batch_size))
            yield from zip(chunks, self._loader(number, order), strict=False)

    def _loader(self, number: int, order: Sequence[int]) -> DataLoader:
        """Load the public images of a round, the same at every site, in an order."""
        generator = torch.Generator().manual_seed(derive_seed("public images", number))
        chosen = torch.randperm(len(self.dataset), generator=generator).tolist()
        return DataLoader([self.dataset[chosen[place]] for place in order], batch_size=self.batch_size)

    def _logits(self, engine: Any, image: Any) -> Tensor:
        return as_categorical(self.network(torch.as_tensor(image).to(engine.state.device)))
