"""What a file is, by its content: names and extensions lie."""

import gzip
import zlib
from pathlib import Path
from typing import Literal

Kind = Literal["dicom", "nifti", "nrrd", "picture", "npy", "zip", "empty", "text", "unknown"]

GZIP = b"\x1f\x8b"
HEAD = 544  # a NIfTI-2 header and its magic
PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
CLAIMS = (".dcm", ".nii", ".nii.gz", ".nrrd", ".png", ".jpg", ".jpeg")
NAMES = {
    b"II*\x00": "a TIFF picture, which is not read; convert it to PNG",
    b"MM\x00*": "a TIFF picture, which is not read; convert it to PNG",
    b"GIF8": "a GIF picture, which is not read; convert it to PNG",
    b"%PDF": "a PDF document, not an image",
    b"\x89HDF": "an HDF5 file, which is not read; convert it to NIfTI",
    b"CDF\x01": "a MINC file, which is not read; convert it to NIfTI",
    GZIP: "compressed with gzip, but no NIfTI inside; unpack it, if it is an image",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
}


def head_of(path: Path) -> bytes:
    """Return a file's first bytes, unpacked when it is a gzip file.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[:2] == GZIP:
        try:
            with gzip.open(path) as file:
                return file.read(HEAD)
        except (OSError, EOFError, zlib.error):
            return head
    return head


def kind_of(path: Path) -> Kind:
    """Say what a file is.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[:2] == GZIP:
        return "nifti" if _kind(head_of(path)) == "nifti" else "unknown"
    return _kind(head)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, with or without its preamble. A file that cannot be opened is not."""
    try:
        with path.open("rb") as file:
            return _is_dicom(file.read(HEAD))
    except OSError:
        return False


def describe_unknown(path: Path) -> str:
    """Say what an unreadable file might be."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "empty: 0 bytes; copy it again"
    for magic, name in NAMES.items():
        if head.startswith(magic) and not path.name.lower().endswith(".nii.gz"):
            return name
    if _kind(head) == "text":
        return "a text, not an image"
    if path.suffix.lower() in (".hdr", ".img"):
        return "an ANALYZE file without orientation, which is not read; convert it to NIfTI"
    if path.name.lower().endswith(CLAIMS):
        return "not what its name says: cut off, damaged or misnamed; copy it again"
    return "no known image format (DICOM, NIfTI, NRRD, PNG, JPEG); convert it or leave it out"


def _kind(head: bytes) -> Kind:
    if not head:
        return "empty"
    if head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:8] in (b"n+2\x00", b"ni2\x00"):
        return "nifti"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if head.startswith(PICTURE_MAGIC[:2]) or (head.startswith(b"BM") and head[6:10] == b"\0\0\0\0"):
        return "picture"
    if _is_dicom(head):
        return "dicom"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    return "text" if _is_text(head) else "unknown"


def _is_dicom(head: bytes) -> bool:
    """With a preamble, ``DICM``; without, a first element of group 2 or 8 that makes sense (PS3.10, 7.1)."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 12 or head[:4] == b"\0\0\0\0":
        return False
    for order in ("little", "big"):
        group = int.from_bytes(head[:2], order)
        element = int.from_bytes(head[2:4], order)
        if group in (0x0002, 0x0008) and element <= 0x1200:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            length = int.from_bytes(head[4:8], order)
            return explicit or length <= 256
    return False


def _is_text(head: bytes) -> bool:
    try:
        head[: len(head) - 3].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
