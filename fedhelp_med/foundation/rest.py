"""The base of clients: a service that is asked over HTTP is a foundation model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.attempts import OnAttempt
from fedhelp_med.foundation.protocol import Array, Kind, ModelDescription, check_answer
from fedhelp_med.foundation.service import Service
from fedhelp_med.foundation.transport import FailureError, Reply, Request


class RestModel(ABC):
    """A foundation model behind a REST service.

    An adapter for a service says in :meth:`encode` what is sent for a batch of images, and in :meth:`decode` what the
    reply means. Attempts and pauses, TLS, the token, the time limit, and the check of the answers are the same for
    all. ``decode`` needs no checks of its own: what it raises for a reply that it does not understand (``KeyError``,
    ``IndexError``, ``TypeError``, ``ValueError``) makes the same request be sent again, as often as is set.

    Args:
        description: what the model is; the service is not asked.
        service: where it is asked.
        batch_size: images per request.
        options: settings that only this adapter knows.

    Attributes:
        batch_size: the same.
        on_attempt: called after each HTTP attempt, in the thread that asks.

    Example:
        >>> import base64, json
        >>> class CloudModel(RestModel):
        ...     def encode(self, batch):
        ...         images = [base64.b64encode(image.tobytes()).decode() for image in batch]
        ...         body = json.dumps({"images": images, "shape": self.input.shape}).encode()
        ...         return Request("POST", "/score", body, {"Content-Type": "application/json"}, len(batch))
        ...
        ...     def decode(self, reply, images):
        ...         scores = json.loads(reply.body)["scores"]
        ...         return np.array(scores, dtype=np.float32)

        In a ``foundation.json``: ``"kind": "rest", "adapter": "my_package.cloud.CloudModel"``.
    """

    def __init__(
        self,
        description: ModelDescription,
        service: Service,
        *,
        batch_size: int = 64,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: send 1 image per request or more")
        self.name = description.name
        self.version = description.version
        self.classes = description.classes
        self.input = description.input
        self.kind: Kind = description.kind
        self.batch_size = batch_size
        self.service = service
        self.options = dict(options or {})

    @property
    def on_attempt(self) -> OnAttempt | None:
        """Called after each HTTP attempt, in the thread that asks."""
        return self.service.on_attempt

    @on_attempt.setter
    def on_attempt(self, call: OnAttempt | None) -> None:
        self.service.on_attempt = call

    @abstractmethod
    def encode(self, batch: Array) -> Request:
        """Return the request that asks about a batch, float32 `B, C, W, H[, D]`."""

    @abstractmethod
    def decode(self, reply: Reply, images: int) -> Array:
        """Return the answers of a reply, `B, K[, W, H[, D]]`, of any floating-point type.

        Args:
            reply: of status 200.
            images: how many images were asked about.
        """

    def predict(self, batch: Array) -> Array:
        """Answer a batch, float32 `B, C, W, H[, D]`, with float32 `B, K[, W, H[, D]]`.

        Raises:
            InputError: if something has to be corrected before the service can answer.
            FedHelpError: if it does not answer, or its answer is unusable.
        """
        if tuple(batch.shape[1:]) != self.input.shape:
            raise FedHelpError(
                f"foundation model {self.name} takes images of shape {self.input.shape}, not {tuple(batch.shape[1:])}"
            )
        limit = self.batch_limit()
        answers = [self._ask(batch[first : first + limit]) for first in range(0, len(batch), limit)]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def batch_limit(self) -> int:
        """Return how many images a request may hold; a client that asks its service first does it here."""
        return self.batch_size

    def close(self) -> None:
        """Close the connections."""
        self.service.close()

    def _ask(self, part: Array) -> Array:
        return self.service.ask(self.encode(part), lambda reply: self._read(reply, len(part)))

    def _read(self, reply: Reply, images: int) -> Array:
        try:
            answer = np.asarray(self.decode(reply, images))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise FailureError(
                "bad answer", "its answer cannot be read", "check that url is that of such a service", again=True
            ) from None
        return check_answer(self, images, answer)
