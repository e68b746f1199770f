"""Reading public images: which of them a ledger has no answer for."""

from collections.abc import Callable, Iterator, Sequence

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.addresses import content_key, file_stamp
from fedhelp_med.foundation.guard import PrivacyGuard
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.protocol import Array, Described, read_image

PORTION = 64  # images whose remembered keys are looked up together
Progress = Callable[[int, int], None]


class Count:
    """Counts the images that are dealt with, and tells ``progress``."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total = total
        self.settled = 0
        self._progress = progress

    def settle(self, images: int = 1) -> None:
        """Count images that are dealt with."""
        self.settled += images
        if self._progress is not None:
            self._progress(self.settled, self.total)


def unanswered(
    paths: Sequence[str],
    model: Described,
    book: Ledger | None,
    guard: PrivacyGuard,
    count: Count,
    refused: list[str] | None = None,
) -> Iterator[tuple[str, str, Array]]:
    """Yield path, key and preprocessed pixels of the images without an answer, one at a time.

    Args:
        paths: of the images.
        model: the model.
        book: the ledger; None if there is none yet. One that may be written remembers the keys of files.
        guard: is asked about each image that is read.
        count: the images with an answer are settled.
        refused: takes what the guard says about images that it refuses.

    Raises:
        InputError: if an image cannot be read, or is refused and ``refused`` is None.
    """
    for first in range(0, len(paths), PORTION):
        portion = paths[first : first + PORTION]
        remembered = book.recall(model, portion) if book else {}
        missing = set(book.missing(remembered.values())) if book else set()
        learned = []
        for path in portion:
            if path in remembered and remembered[path] not in missing:
                count.settle()
                continue
            stamp = file_stamp(path)  # before the file is read: a change while it is read is then noticed later
            pixels = read_image(path, len(model.input.size))
            try:
                guard.check(path, pixels)
            except InputError as error:
                if refused is None:
                    raise
                refused.append(str(error))
                count.settle()
                continue
            image = model.input.fit(pixels)
            key = content_key(image, model)
            if stamp is not None:
                learned.append((path, stamp, key))
            if book and not book.missing([key]):
                count.settle()
            else:
                yield path, key, image
        if learned and book and not book.readonly:
            book.remember(model, learned)
