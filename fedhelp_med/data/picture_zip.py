"""Labelled pictures in a zip, one folder per class, read without trusting the zip.

Nothing is extracted under a name of the zip's choosing; the names are checked all the same, because a zip that
carries such names is not what its user thinks it is.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.zip_entries import unsafe

PICTURES = (".png", ".jpg", ".jpeg")
MAXIMUM_FILES = 100_000
MAXIMUM_FILE_BYTES = 64 * 2**20
MAXIMUM_TOTAL_BYTES = 4 * 2**30
MAXIMUM_PIXELS = 4096 * 4096

# What zipfile and Pillow raise on damaged, encrypted or hostile content.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ZippedPicture:
    """A picture's name in the zip and its class index."""

    name: str
    label: int


def list_pictures(path: Path) -> tuple[tuple[str, ...], list[ZippedPicture]]:
    """List the pictures of a zip by class.

    Returns:
        The class names (the folders, sorted) and the pictures, sorted by name.

    Raises:
        InputError: not a zip, an unsafe or oversized entry, pictures outside folders, or fewer than two classes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a zip ({error}); give a zip of picture folders") from None
    _check_entries(path, entries)
    names = sorted(entry.filename for entry in entries if _is_picture(entry))
    folders = {name: PurePosixPath(name).parent for name in names}
    loose = [name for name, folder in folders.items() if folder == PurePosixPath()]
    if loose:
        raise InputError(f"{path}: {loose[0]}: lies in no folder; put every picture in a folder named by its class")
    by_class: dict[str, PurePosixPath] = {}
    for name, folder in folders.items():
        if by_class.setdefault(folder.name, folder) != folder:
            raise InputError(
                f"{path}: {name}: a second folder {folder.name!r} beside {by_class[folder.name]}; "
                "keep one folder per class"
            )
    classes = tuple(sorted(by_class))
    if len(classes) < 2:
        raise InputError(
            f"{path}: {len(classes)} folder(s) with pictures ({', '.join(classes) or 'none'}); "
            "give one folder per class, two at least"
        )
    return classes, [ZippedPicture(name, classes.index(folders[name].name)) for name in names]


def read_pictures(path: Path, pictures: Sequence[ZippedPicture], mode: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode pictures one by one as ``H, W`` (mode ``L``) or ``H, W, 3`` (mode ``RGB``).

    Raises:
        InputError: the entry is damaged, encrypted, larger than it says, or not a picture.
    """
    with zipfile.ZipFile(path) as archive:
        for picture in pictures:
            try:
                image = _decode(archive, picture.name, mode)
            except DAMAGE as error:
                raise InputError(
                    f"{path}: {picture.name}: cannot be read as a picture ({error}); replace or remove it"
                ) from None
            yield image


def _decode(archive: zipfile.ZipFile, name: str, mode: str) -> npt.NDArray[np.uint8]:
    with archive.open(name) as entry:
        content = entry.read(MAXIMUM_FILE_BYTES + 1)  # the size in the zip's index is the zip's own word
    if len(content) > MAXIMUM_FILE_BYTES:
        raise ValueError(f"larger than {MAXIMUM_FILE_BYTES} bytes")
    with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as image:
        if image.width * image.height > MAXIMUM_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MAXIMUM_PIXELS}")
        return np.asarray(image.convert(mode), np.uint8)


def _is_picture(entry: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(entry.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    return not entry.is_dir() and not hidden and name.suffix.lower() in PICTURES


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse names that leave the folder, links, encrypted entries, and contents out of proportion."""
    if len(entries) > MAXIMUM_FILES:
        raise InputError(f"{path}: {len(entries)} entries; the limit is {MAXIMUM_FILES}: give a smaller zip")
    for entry in entries:
        if (reason := unsafe(entry)) is not None:
            raise InputError(f"{path}: {reason}")
        if entry.file_size > MAXIMUM_FILE_BYTES:
            size = f"{entry.file_size} bytes; the limit is {MAXIMUM_FILE_BYTES}"
            raise InputError(f"{path}: {entry.filename!r}: {size}: remove it")
    total = sum(entry.file_size for entry in entries)
    if total > MAXIMUM_TOTAL_BYTES:
        raise InputError(f"{path}: {total} bytes unpacked; the limit is {MAXIMUM_TOTAL_BYTES}: give a smaller zip")
