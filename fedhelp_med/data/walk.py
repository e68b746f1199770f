"""The files of a folder, a zip or a DICOMDIR, read without trusting any of them."""

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.zip_entries import unsafe
from fedhelp_med.transforms.dicom_file import MEDIA_DIRECTORY, quiet
from fedhelp_med.transforms.errors import reader_reason

MAXIMUM_ENTRIES = 1_000_000
MAXIMUM_ENTRY_BYTES = 16 * 2**30
SUSPICIOUS_BYTES = 64 * 2**20  # below this size a high ratio does no harm
SUSPICIOUS_RATIO = 500  # the deflate of real images stays below; a bomb's is about 1000
BLOCK = 1 << 20

ZIP_FAULTS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, order=True)
class Rejected:
    """A file that is not used, and why.

    Attributes:
        path: the file.
        reason: what is wrong with it, and what to do.
    """

    path: Path
    reason: str


def list_files(source: Path, unpack_to: Path | None = None) -> tuple[list[Path], list[Rejected]]:
    """List the files of a source, sorted by path.

    Args:
        source: a folder, a zip, a DICOMDIR, or a single file.
        unpack_to: a folder for the content of a zip.

    Returns:
        The files, and what cannot be used.

    Raises:
        InputError: the source does not exist, or is a zip and there is no ``unpack_to``.
    """
    if source.is_dir():
        files: list[Path] = []
        rejected: list[Rejected] = []
        for entry in _walk(source, set()):
            (files if isinstance(entry, Path) else rejected).append(entry)  # type: ignore[arg-type]
        return sorted(files), sorted(rejected)
    if not source.exists():
        raise InputError(f"{source}: does not exist; name a folder, a zip or a DICOMDIR")
    if not source.is_file():
        raise InputError(f"{source}: neither a folder nor a file; name a folder, a zip or a DICOMDIR")
    if zipfile.is_zipfile(source) and not is_npz(source):
        if unpack_to is None:
            raise InputError(f"{source}: a zip, and there is no folder to unpack it; unpack it first")
        return unpack(source, unpack_to)
    listed = _dicomdir(source)
    return ([source], []) if listed is None else listed


def is_npz(path: Path) -> bool:
    """Whether a zip is a NumPy archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_FAULTS:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def unpack(path: Path, folder: Path) -> tuple[list[Path], list[Rejected]]:
    """Unpack a zip; entries that could do harm are left out and named.

    Raises:
        InputError: not a readable zip, or one that does not fit on the disk.
    """
    files: set[Path] = set()
    rejected: list[Rejected] = []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            _check_archive(path, folder, entries)
            for entry in entries:
                shown = path / PurePosixPath(entry.filename).name if entry.filename else path
                reason = _refused(entry)
                target = folder / entry.filename
                if reason is None and target in files:
                    reason = f"{entry.filename!r} stands twice in the zip; the first is used"
                if reason is None:
                    reason = _extract(archive, entry, target)
                if reason is None:
                    files.add(target)
                else:
                    rejected.append(Rejected(shown, reason))
    except ZIP_FAULTS as error:
        raise InputError(f"{path}: cannot be read as a zip ({reader_reason(error)}); copy it again") from None
    return sorted(files), rejected


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path | Rejected]:
    """Yield files; links to folders are followed once, so that loops end."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            yield Rejected(folder, "a link to a folder that is read already; not followed again")
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Rejected(folder, f"this folder cannot be opened ({error.strerror}); check it")
        return
    for entry in entries:
        path = Path(entry.path)
        try:
            if not _is_utf8(path):
                yield Rejected(_shown(path), "its name is not UTF-8, the other bytes are shown as \\x..; rename it")
            elif entry.is_dir():
                yield from _walk(path, seen)
            elif entry.is_file():
                yield path
            elif entry.is_symlink() and not path.exists():
                yield Rejected(path, "a link to nothing; copy the file itself")
            else:
                yield Rejected(path, "not a regular file; leave it out")
        except OSError as error:
            yield Rejected(path, f"cannot be opened ({error.strerror}); check it")


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> Path:
    """A path that can be written into a text file."""
    return Path(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _check_archive(path: Path, folder: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAXIMUM_ENTRIES:
        raise InputError(f"{path}: {len(entries)} entries; the limit is {MAXIMUM_ENTRIES}: give a smaller zip")
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(entry.file_size for entry in entries if _refused(entry) is None)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise InputError(f"{path}: {total} bytes unpacked do not fit into {folder} ({free} free); give a smaller zip")


def _refused(entry: zipfile.ZipInfo) -> str | None:
    if (reason := unsafe(entry)) is not None:
        return reason
    name = entry.filename
    if entry.file_size > MAXIMUM_ENTRY_BYTES:
        return f"the zip's entry {name!r} has {entry.file_size} bytes; the limit is {MAXIMUM_ENTRY_BYTES}"
    if entry.file_size > max(SUSPICIOUS_BYTES, SUSPICIOUS_RATIO * entry.compress_size):
        return (
            f"the zip's entry {name!r} grows from {entry.compress_size} to {entry.file_size} bytes: a zip bomb? "
            "Unpack it yourself if it is not"
        )
    return None


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> str | None:
    """Write one entry, no more than it declared; return what went wrong."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        left = entry.file_size
        with archive.open(entry) as source, target.open("wb") as file:
            while block := source.read(BLOCK):
                left -= len(block)
                if left < 0:
                    raise ValueError("larger than declared")
                file.write(block)
    except ZIP_FAULTS as error:
        target.unlink(missing_ok=True)
        return f"the zip's entry {entry.filename!r} cannot be unpacked ({reader_reason(error)}); make the zip again"
    return None


def _dicomdir(path: Path) -> tuple[list[Path], list[Rejected]] | None:
    """The files that a DICOMDIR refers to (PS3.10, 8.6); None when the file is none."""
    try:
        with quiet():
            dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence", "ReferencedFileID"])
        if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) != MEDIA_DIRECTORY:
            return None
        records = list(dataset.get("DirectoryRecordSequence") or [])
    except Exception:  # whatever pydicom raises: then it is not one, or a damaged one that is named as a file
        return None
    files, rejected = [], []
    for record in records:
        names = record.get("ReferencedFileID")
        if names:
            parts = [names] if isinstance(names, str) else list(names)
            found = _beneath(path.parent, parts)
            if found is None:
                missing = path.parent.joinpath(*parts) if ".." not in parts else path
                rejected.append(Rejected(missing, f"{path.name} lists {'/'.join(parts)}, which is not there; copy it"))
            else:
                files.append(found)
    return sorted(set(files)), rejected


def _beneath(folder: Path, parts: list[str]) -> Path | None:
    """Find a file by its path on the medium; copies of a CD often changed the case of its names."""
    place = folder
    for part in parts:
        if part in ("", ".", "..") or "/" in part:
            return None
        exact = place / part
        if not exact.exists():
            if not place.is_dir():
                return None
            same = [entry for entry in place.iterdir() if entry.name.lower() == part.lower()]
            if not same:
                return None
            exact = same[0]
        place = exact
    return place if place.is_file() else None
