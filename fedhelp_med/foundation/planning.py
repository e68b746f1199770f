"""What an acquisition would do: the dry run."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import read_datalist
from fedhelp_med.foundation.acquisition import BATCH_SIZE, check_batch_size
from fedhelp_med.foundation.guard import PrivacyGuard
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.limits import Limits, Spent
from fedhelp_med.foundation.protocol import FoundationModel
from fedhelp_med.foundation.reading import Count, Progress, unanswered


@dataclass(frozen=True)
class Plan:
    """What an acquisition would do.

    Attributes:
        images: of the public datalist.
        asked: that would be sent.
        calls: that would be made.
        bytes: of the images that would be sent, as float32; a service may take fewer, or text of several times that.
        remaining: images without an answer that would be left because of a limit.
        exhausted: that limit.
        refused: what the privacy guard says about images that would not be sent.
    """

    images: int
    asked: int
    calls: int
    bytes: int
    remaining: int
    exhausted: str | None
    refused: tuple[str, ...]


def plan_acquisition(
    datalist: Path,
    model: FoundationModel,
    ledger: Path,
    *,
    private: Iterable[Path] = (),
    batch_size: int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Return what :func:`acquire` would do; nothing is sent and nothing is written.

    Args:
        datalist: the public datalist.
        model: the model; it is not asked.
        ledger: the file of its answers; it need not exist.
        private: datalists of this site's own data.
        batch_size: images per call; by default what the model takes.
        limits: what it may cost.
        progress: called with the number of images looked at and of all images.

    Raises:
        InputError: if the datalist, an image or the ledger is wrong, or the datalist is not public.
    """
    check_batch_size(batch_size)
    public = read_datalist(datalist)
    guard = PrivacyGuard(public, private)
    paths = [str(item["image"]) for item in public.splits["training"]]
    refused: list[str] = []
    try:
        guard.check_places(paths)
    except InputError as error:
        refused.append(str(error))
    fresh = set()
    count = Count(len(paths), progress)
    with ExitStack() as stack:
        book = stack.enter_context(Ledger(ledger, readonly=True)) if ledger.exists() else None
        for _, key, _ in unanswered(paths, model, book, guard, count, refused):
            fresh.add(key)
            count.settle()
    most = int(getattr(model, "batch_size", 0)) or batch_size or BATCH_SIZE
    size = min(most, batch_size or most)
    image_bytes = 4 * math.prod(model.input.shape)
    asked = calls = 0
    exhausted = None
    while asked < len(fresh):
        room, exhausted = (limits or Limits()).room(size, Spent(asked, calls, asked * image_bytes), image_bytes)
        if exhausted:
            break
        asked, calls = min(len(fresh), asked + room), calls + 1
    return Plan(len(paths), asked, calls, asked * image_bytes, len(fresh) - asked, exhausted, tuple(refused))
