"""The one-time acquisition: every public image is sent to the foundation model once, and never again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.datalist import read_datalist
from fedhelp_med.foundation.addresses import content_key, file_stamp
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.protocol import Array, FoundationModel, check_answer


@dataclass(frozen=True)
class AcquisitionSummary:
    """What an acquisition did.

    Attributes:
        asked: images that were sent, each content once.
        already_known: images whose answer was in the ledger, or that are copies of one that was sent.
        calls: calls to the model.
        seconds: how long it took.
    """

    asked: int
    already_known: int
    calls: int
    seconds: float


def acquire(
    datalist: Path,
    model: FoundationModel,
    ledger: Path,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> AcquisitionSummary:
    """Ask a foundation model about the public images that its ledger has no answer for.

    The only images that are read are those under ``training`` of the public datalist. One batch is in memory at a
    time, and is kept as soon as it is answered: an acquisition that was interrupted goes on where it was.

    Args:
        datalist: the public datalist.
        model: the model to ask.
        ledger: the file of its answers; made if it does not exist.
        batch_size: images per call.
        progress: called with the number of images dealt with and of all images.

    Raises:
        InputError: if the datalist, an image or the ledger is wrong.
        FedHelpError: if the model fails or its answer is unusable; nothing of that batch is kept.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: send 1 image per call or more")
    started = time.perf_counter()
    paths = [str(item["image"]) for item in read_datalist(datalist).splits["training"]]
    asked = calls = 0
    with Ledger(ledger) as book:
        book.register(model)
        for batch in _unanswered(paths, model, book, batch_size, progress):
            sent = _ask(batch, model, book)
            asked += sent
            calls += sent > 0
    return AcquisitionSummary(asked, len(paths) - asked, calls, time.perf_counter() - started)


def _unanswered(
    paths: Sequence[str],
    model: FoundationModel,
    book: Ledger,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[dict[str, Array]]:
    """Yield batches of preprocessed images by key, for which the ledger has no answer."""
    batch: dict[str, Array] = {}
    for first in range(0, len(paths), batch_size):
        portion = paths[first : first + batch_size]
        remembered = book.recall(model, portion)
        answered = set(remembered.values()) - set(book.missing(remembered.values()))
        learned = []
        for path in portion:
            if remembered.get(path) in answered:
                continue
            stamp = file_stamp(path)  # before the file is read: a change while it is read is then noticed later
            pixels = model.input.preprocess(path)
            key = content_key(pixels, model)
            if stamp is not None:
                learned.append((path, stamp, key))
            if key not in batch and book.missing([key]):
                batch[key] = pixels
            if len(batch) == batch_size:
                yield batch
                batch = {}
        if batch and first + batch_size >= len(paths):
            yield batch
        if learned:
            book.remember(model, learned)
        if progress is not None:
            progress(first + len(portion), len(paths))


def _ask(batch: dict[str, Array], model: FoundationModel, book: Ledger) -> int:
    """Ask about one batch and keep the answers; return the number of images that were sent."""
    keys = book.missing(batch)  # another process may have asked about some of them by now
    if not keys:
        return 0
    call = book.intend(model, keys)
    try:
        answer = check_answer(model, len(keys), model.predict(np.stack([batch[key] for key in keys])))
    except FedHelpError as error:
        book.fail(call, str(error))
        raise
    except Exception as error:
        book.fail(call, repr(error))
        raise FedHelpError(f"foundation model {model.name} failed on {len(keys)} images: {error}") from error
    book.store(call, dict(zip(keys, answer, strict=True)))
    return len(keys)
