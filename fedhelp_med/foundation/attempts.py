"""One attempt at an HTTP request to a foundation model: what it cost and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """A single HTTP attempt, as it is reported to whoever keeps the account.

    Attributes:
        images: Images in the request (0 for a metadata request).
        sent_bytes: Bytes of the request body that were offered to the network.
        received_bytes: Bytes of the response body that arrived.
        seconds: Wall-clock time of the attempt, without the pause before the next one.
        status: The HTTP status (`"200"`), or a word for how it failed (`"refused"`, `"timeout"`, `"bad answer"`).
        number: 1 for the first attempt at a request, 2 for its first repetition, and so on.
    """

    images: int
    sent_bytes: int
    received_bytes: int
    seconds: float
    status: str
    number: int


OnAttempt = Callable[[Attempt], None]
