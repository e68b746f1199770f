"""What is wrong with one image."""

from pathlib import Path

from fedhelp_med.common.errors import InputError


class ImageError(InputError):
    """An image that cannot be used, and why.

    Args:
        path: the file or the folder.
        reason: what is wrong and what to do about it, without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        """Travel between processes: pickled by its own arguments, not by the message."""
        return type(self), (self.path, self.reason)


class NotAnImageError(ImageError):
    """A file of another purpose: nothing is wrong with it."""


def reader_reason(error: BaseException) -> str:
    """Return a reader's error as one short line; of a chain that ITK or pydicom tells, its last line, the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chained = bool(lines) and lines[0].startswith(("Exception thrown", "Unable to decode as exceptions"))
    text = lines[-1] if chained else (lines or [type(error).__name__])[0]
    return text if len(text) <= 160 else f"{text[:157]}..."
