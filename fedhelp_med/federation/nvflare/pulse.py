"""Whether the job's processes at the sites still answer."""

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

INTERVAL = 5.0
"""Seconds between two questions to the sites."""


class Pulse:
    """Asks the sites, in a thread of its own, and knows for how long each has been silent.

    NVFlare 2.9 tells a job that a client is gone when that client's heartbeats stay away, or when its client process
    reports that the job's process died. A client whose whole machine went down and came back does neither: it registers
    anew, NVFlare starts no running job there again, and the job would wait for ever.

    Args:
        ask: returns the names of the sites that answer.
        sites: those that take part.
        patience: seconds of silence after which a site is held for gone.
        interval: seconds between questions.
    """

    def __init__(
        self, ask: Callable[[], Iterable[str]], sites: Iterable[str], patience: float, interval: float = INTERVAL
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._interval = interval
        self._heard = dict.fromkeys(sites, time.monotonic())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="pulse", daemon=True)

    def silent(self, site: str) -> bool:
        """Whether a site has not answered for longer than the patience."""
        return time.monotonic() - self._heard[site] > self._patience

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._end.wait(self._interval):
            for site in self._ask():
                self._heard[site] = time.monotonic()
