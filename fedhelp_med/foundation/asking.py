"""Asking with several calls under way: threads wait for the model, one thread keeps the ledger."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.foundation.attempts import Attempt, OnAttempt
from fedhelp_med.foundation.ledger import LEASE_SECONDS, Ledger
from fedhelp_med.foundation.limits import Limits, Spent
from fedhelp_med.foundation.protocol import Array, FoundationModel, check_answer

RENEW_SECONDS = LEASE_SECONDS / 4
NOTE_SECONDS = 1.0  # until an attempt is written down whose call goes on


@runtime_checkable
class Reporting(Protocol):
    """A model that tells of each request."""

    on_attempt: OnAttempt | None


class Outcome(NamedTuple):
    """How a call ended."""

    result: Array | BaseException
    seconds: float


class Asker:
    """Sends batches of images to a model and keeps its answers.

    Everything but the model runs in the thread that calls the methods. What is under way when the context is left,
    also by an exception, is waited for and kept; a second interruption gives it up, and it stays visible as uncertain.

    Args:
        model: it is called from ``concurrency`` threads.
        book: the ledger.
        concurrency: calls under way at most.
        limits: what may be spent.
        answered: called with the number of images of each call that was answered.

    Attributes:
        exhausted: the limit that is used up.
        images: that were sent.
        calls: that were made.
        attempts: requests with images, repetitions included.
        sent: bytes of all requests.
    """

    def __init__(
        self,
        model: FoundationModel,
        book: Ledger,
        concurrency: int,
        limits: Limits,
        answered: Callable[[int], None],
    ) -> None:
        self.exhausted: str | None = None
        self.images = self.calls = self.attempts = self.sent = 0
        self._model = model
        self._book = book
        self._concurrency = concurrency
        self._limits = limits
        self._answered = answered
        self._reporting: Reporting | None = model if isinstance(model, Reporting) else None
        self._before = self._reporting.on_attempt if self._reporting else None
        self._image_bytes = 4 * int(np.prod(model.input.shape))
        self._measured = self._reporting is None
        self._under_way: dict[int, tuple[str, ...]] = {}
        self._unwritten: dict[int | None, list[Attempt]] = {}
        self._jobs: queue.SimpleQueue[tuple[int, Array] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[tuple[int | None, Attempt | Outcome]] = queue.SimpleQueue()
        self._here = threading.local()
        self._failure: BaseException | None = None
        self._next_call = self._next_renewal = 0.0

    def __enter__(self) -> Self:
        if self._reporting:
            self._reporting.on_attempt = self._note
        for number in range(self._concurrency):
            threading.Thread(target=self._work, name=f"asker {number}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                with suppress(FedHelpError, KeyboardInterrupt):
                    self.drain()
            with suppress(FedHelpError):
                self._book.release(self._under_way)
        finally:
            for _ in range(self._concurrency):
                self._jobs.put(None)
            if self._reporting:
                self._reporting.on_attempt = self._before

    def room(self, size: int) -> int:
        """Return how many images the next call may hold, at most ``size``; 0 when a limit is used up."""
        while True:
            room, limit = self._room(size)
            if room or not self._under_way:
                self.exhausted = limit
                return room
            self._handle(wait=True)  # what is under way may cost less than was set aside

    def ask(self, batch: Mapping[str, Array]) -> tuple[str, ...]:
        """Send the images of a batch that nobody has asked about, as soon as a thread is free.

        Returns:
            The keys of the images that are under way already, here or in another process.

        Raises:
            FedHelpError: if an earlier call failed.
        """
        while len(self._under_way) >= self._concurrency or time.monotonic() < self._next_call:
            self._handle(wait=True)
        self._raise_failure()
        claim = self._book.claim(self._model, batch)
        if claim.call is not None:
            self._under_way[claim.call] = claim.keys
            self.calls += 1
            self.images += len(claim.keys)
            if self._limits.rate is not None:
                self._next_call = time.monotonic() + 1 / self._limits.rate
            self._jobs.put((claim.call, np.stack([batch[key] for key in claim.keys])))
        known = len(batch) - len(claim.keys) - len(claim.held)
        if known:  # answered since they were looked up
            self._answered(known)
        return claim.held

    def tick(self) -> None:
        """Keep what has arrived meanwhile, and the leases on what has not."""
        while self._handle(wait=False):
            pass

    def drain(self) -> None:
        """Wait for everything that is under way.

        Raises:
            FedHelpError: if a call failed.
        """
        while self._under_way:
            self._handle(wait=True)
        self.tick()
        if self._unwritten:
            self._renew()
        self._raise_failure()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, images = job
            self._here.call = call
            began = time.perf_counter()
            result: Array | BaseException
            try:
                result = check_answer(self._model, len(images), self._model.predict(images))
            except BaseException as error:  # handed to the thread that keeps the ledger
                result = error
            seconds = time.perf_counter() - began
            if self._reporting is None:
                received, status = (result.nbytes, "done") if isinstance(result, np.ndarray) else (0, "failed")
                self._note(Attempt(len(images), images.nbytes, received, seconds, status, 1))
            self._events.put((call, Outcome(result, seconds)))

    def _note(self, attempt: Attempt) -> None:
        self._events.put((getattr(self._here, "call", None), attempt))

    def _handle(self, wait: bool) -> bool:
        """Handle one event, if there is one; ``wait`` for it until the next thing is due."""
        now = time.monotonic()
        if now >= self._next_renewal:
            self._renew()
        due = min(self._next_renewal, self._next_call if self._next_call > now else self._next_renewal)
        try:
            call, event = self._events.get(block=wait, timeout=max(0.001, due - now) if wait else None)
        except queue.Empty:
            return False
        if isinstance(event, Attempt):
            self._count(event)
            self._unwritten.setdefault(call, []).append(event)
            self._next_renewal = min(self._next_renewal, now + NOTE_SECONDS)
        else:
            assert call is not None
            self._complete(call, event)
        return True

    def _count(self, attempt: Attempt) -> None:
        self.sent += attempt.sent_bytes
        if attempt.images:
            self.attempts += 1
            size = -(-attempt.sent_bytes // attempt.images)
            self._image_bytes = max(self._image_bytes, size) if self._measured else max(1, size)
            self._measured = True

    def _complete(self, call: int, outcome: Outcome) -> None:
        keys, attempts = self._under_way.pop(call), self._unwritten.pop(call, [])
        result, seconds = outcome
        if isinstance(result, np.ndarray):
            self._book.store(call, dict(zip(keys, result, strict=True)), seconds, attempts)
            self._answered(len(keys))
            return
        if isinstance(result, Exception):
            self._book.fail(call, str(result) or repr(result), seconds, attempts)
        else:  # an interruption: what became of the images is not known
            self._book.renew({call: attempts})
            self._book.release([call])
        self._failure = self._failure or self._explained(result, len(keys))

    def _explained(self, error: BaseException, images: int) -> BaseException:
        if isinstance(error, FedHelpError) or not isinstance(error, Exception):
            return error
        explained = FedHelpError(f"foundation model {self._model.name} failed on {images} images: {error}")
        explained.__cause__ = error
        return explained

    def _renew(self) -> None:
        self._next_renewal = time.monotonic() + RENEW_SECONDS
        waited_for: dict[int | None, list[Attempt]] = {call: [] for call in self._under_way}
        if waited_for or self._unwritten:
            self._book.renew(waited_for | self._unwritten)
            self._unwritten = {}

    def _room(self, size: int) -> tuple[int, str | None]:
        if self._limits.bytes is not None and not self._measured:
            size = 0 if self._under_way else 1  # the first image tells what one costs on the wire
        set_aside = sum(map(len, self._under_way.values())) * self._image_bytes
        spent = Spent(self.images, self.attempts + len(self._under_way), self.sent + set_aside)
        return self._limits.room(size, spent, self._image_bytes)

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        while self._under_way:  # what others have answered is kept
            self._handle(wait=True)
        raise self._failure
