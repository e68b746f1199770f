"""The one-time acquisition: every public image is sent to the foundation model once, and never again."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import read_datalist
from fedhelp_med.foundation.asking import Asker
from fedhelp_med.foundation.guard import PrivacyGuard
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.limits import Limits
from fedhelp_med.foundation.protocol import Array, FoundationModel
from fedhelp_med.foundation.reading import Count, Progress, unanswered

BATCH_SIZE = 64
POLL_SECONDS = 0.2  # between looks at what another process is waiting for


@dataclass(frozen=True)
class AcquisitionSummary:
    """What an acquisition did.

    Attributes:
        asked: images that were sent, each content once.
        already_known: images whose answer was in the ledger, or that are copies of one that was sent.
        calls: calls to the model.
        seconds: how long it took.
        requests: requests with images, repetitions included; for a model on this machine its calls.
        bytes: bytes of all requests.
        remaining: images that were not dealt with because a limit was used up.
        exhausted: that limit.
    """

    asked: int
    already_known: int
    calls: int
    seconds: float
    requests: int
    bytes: int
    remaining: int
    exhausted: str | None


def acquire(
    datalist: Path,
    model: FoundationModel,
    ledger: Path,
    *,
    private: Iterable[Path] = (),
    batch_size: int | None = None,
    concurrency: int = 1,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> AcquisitionSummary:
    """Ask a foundation model about the public images that its ledger has no answer for.

    The only images that are sent are those under ``training`` of the public datalist, as far as the
    :class:`PrivacyGuard` allows. ``concurrency + 1`` batches are in memory at a time; each is kept as soon as it is
    answered: an acquisition that was interrupted goes on where it was. What another process is asking about in the
    same ledger is waited for.

    Args:
        datalist: the public datalist.
        model: the model to ask; with ``concurrency`` above 1 it is called from several threads.
        ledger: the file of its answers; made if it does not exist.
        private: datalists of this site's own data, none of whose images may be sent.
        batch_size: images per call; by default, and at most, what the model takes.
        concurrency: calls under way at most.
        limits: what it may cost. Requests that are repeated while a limit is reached can exceed it.
        progress: called with the number of images dealt with and of all images.

    Raises:
        InputError: if the datalist, an image or the ledger is wrong, or the guard refuses an image.
        FedHelpError: if the model fails or its answer is unusable; nothing of that batch is kept.
    """
    check_batch_size(batch_size)
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}: allow 1 call under way or more")
    started = time.perf_counter()
    public = read_datalist(datalist)
    guard = PrivacyGuard(public, private)
    paths = [str(item["image"]) for item in public.splits["training"]]
    guard.check_places(paths)
    with Ledger(ledger) as book:
        book.register(model)
        count = Count(len(paths), progress)
        with Asker(model, book, concurrency, limits or Limits(), count.settle) as asker:
            sweep = _Sweep(model, book, guard, asker, count, batch_size)
            while paths:
                under_way = sweep.once(paths)
                paths = [] if asker.exhausted else sweep.wait_for(under_way)
            asker.drain()
    return AcquisitionSummary(
        asker.images,
        count.settled - asker.images,
        asker.calls,
        time.perf_counter() - started,
        asker.attempts,
        asker.sent,
        count.total - count.settled,
        asker.exhausted,
    )


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch of no image.

    Raises:
        InputError: if it is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: send 1 image per call or more")


class _Sweep:
    """Asks about all of some images that nobody has asked about."""

    def __init__(
        self,
        model: FoundationModel,
        book: Ledger,
        guard: PrivacyGuard,
        asker: Asker,
        count: Count,
        batch_size: int | None,
    ) -> None:
        self.model = model
        self.book = book
        self.guard = guard
        self.asker = asker
        self.count = count
        self.batch_size = batch_size

    def once(self, paths: Sequence[str]) -> dict[str, str]:
        """Go through the images once; return the keys of those that are under way, by path."""
        batch: dict[str, Array] = {}
        places: dict[str, str] = {}
        under_way: dict[str, str] = {}
        room = 0
        for path, key, image in unanswered(paths, self.model, self.book, self.guard, self.count):
            self.asker.tick()
            if key in batch:
                self.count.settle()
                continue
            if not batch:
                room = self.asker.room(self.size)
                if not room:
                    break
            batch[key], places[key] = image, path
            if len(batch) == room:
                under_way |= {places[held]: held for held in self.asker.ask(batch)}
                batch, places = {}, {}
        if batch:
            under_way |= {places[held]: held for held in self.asker.ask(batch)}
        return under_way

    def wait_for(self, under_way: dict[str, str]) -> list[str]:
        """Wait for answers that others have asked for; return the paths of the images that they gave up."""
        self.asker.drain()
        while under_way:
            missing = self.book.missing(under_way.values())
            before, under_way = len(under_way), {path: key for path, key in under_way.items() if key in missing}
            self.count.settle(before - len(under_way))
            if set(missing) - self.book.held(missing):
                return list(under_way)
            if missing:
                time.sleep(POLL_SECONDS)
        return []

    @cached_property
    def size(self) -> int:
        """Images per call. A service is asked what it takes when the first image is to be sent, not before."""
        limit = getattr(self.model, "batch_limit", None)
        most = limit() if callable(limit) else self.batch_size or BATCH_SIZE
        return min(most, self.batch_size or most)
