"""When a request that failed is repeated: exponential back-off with jitter, and what ``Retry-After`` asks for."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from fedhelp_med.common.errors import InputError

# Conditions that pass by themselves; every other status from 400 on would be answered in the same way again.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_chance = random.Random()  # of its own: seeds of a run neither decide the pauses nor are moved by them


@dataclass(frozen=True)
class Retries:
    """How patiently a service is asked.

    Attributes:
        attempts: how often one request is sent at most.
        first_pause: the pause after the first attempt, in seconds. It doubles from attempt to attempt.
        longest_pause: the longest pause, in seconds. A service that asks for a longer one is not waited for.

    Raises:
        InputError: if an attribute makes no sense.
    """

    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InputError(f"attempts is {self.attempts}: send a request once or more")
        if not 0 <= self.first_pause <= self.longest_pause:
            raise InputError(
                f"first_pause is {self.first_pause} and longest_pause {self.longest_pause}: "
                "give seconds, the first not longer than the longest"
            )

    def pause(self, number: int, asked: float | None = None) -> float:
        """Return the seconds to wait after the attempt ``number`` (1, 2, ...).

        Half of the pause is fixed and half is drawn, so that clients that failed together do not return together.

        Args:
            number: the attempt that failed.
            asked: the seconds that the service asked for; what it asks is the least.
        """
        pause = min(self.longest_pause, self.first_pause * 2.0 ** min(number - 1, 64))
        return max(asked or 0.0, pause * (1 + _chance.random()) / 2)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3), or None without one that can be read.

    Args:
        headers: of the answer, with keys in any case if the mapping ignores it.
        now: the time from which a date counts. By default the answer's own ``Date``, which is right even where the
            two clocks differ, else this machine's.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = now or _date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
