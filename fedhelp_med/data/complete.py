"""Whether a file holds what its header declares, without decoding it."""

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from fedhelp_med.transforms.errors import ImageError
from fedhelp_med.transforms.formats import open_nifti, open_nrrd, open_picture
from fedhelp_med.transforms.sniff import Kind

GZIP = b"\x1f\x8b"
TAIL = 4096  # bytes in which a JPEG must end
CUT_OFF = "cut off: {found} bytes where its header needs {needed}; copy it again"


def check_complete(path: Path, kind: Kind) -> None:
    """Check a NIfTI, NRRD or picture file (DICOM is checked when its header is read).

    Raises:
        ImageError: damaged header, or cut off.
    """
    if kind == "nifti":
        _nifti(path)
    elif kind == "nrrd":
        _nrrd(path)
    elif kind == "picture":
        with open_picture(path) as picture:
            form = picture.format
        if form == "PNG":
            _png(path)
        elif form == "JPEG":
            _jpeg(path)


def _nifti(path: Path) -> None:
    image = open_nifti(path)
    voxels = int(np.prod([int(length) for length in image.shape])) * image.get_data_dtype().itemsize
    voxel_file = Path(image.file_map["image"].filename or path)
    if not voxel_file.is_file():
        raise ImageError(path, f"{voxel_file.name}, which should hold its voxels, is not there; copy both files")
    needed = int(image.dataobj.offset) + voxels
    found = _size(path, voxel_file, needed)
    if found < needed:
        raise ImageError(path, CUT_OFF.format(found=found, needed=needed))


def _size(path: Path, file: Path, needed: int) -> int:
    """The size of a file, unpacked where it is gzip: as its last bytes say, or counted where these do not fit."""
    with file.open("rb") as stream:
        packed = stream.read(2) == GZIP
        if not packed:
            return os.fstat(stream.fileno()).st_size
        stream.seek(-4, os.SEEK_END)
        if struct.unpack("<I", stream.read(4))[0] == needed % 2**32:
            return needed
    return _count(path, file)


def _count(path: Path, file: Path) -> int:
    total = 0
    try:
        with gzip.open(file) as stream:
            while block := stream.read(1 << 20):
                total += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(path, f"its compressed voxels are damaged or cut off ({error}); copy it again") from None
    return total


def _nrrd(path: Path) -> None:
    """An uncompressed NRRD file in one piece is measured; any other is read."""
    reader = open_nrrd(path)
    fields, begin = _nrrd_header(path)
    needed = int(np.prod(reader.GetSize())) * reader.GetNumberOfComponents() * _bytes_of(reader)
    if fields.get("encoding") == "raw" and not {"data file", "datafile", "line skip", "byte skip"} & set(fields):
        found = path.stat().st_size - begin
        if found < needed:
            raise ImageError(path, CUT_OFF.format(found=found, needed=needed))
        return
    try:
        reader.Execute()
    except RuntimeError:
        raise ImageError(path, "its voxels are damaged or cut off; copy it again") from None


def _nrrd_header(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header, and where the data begin: after an empty line."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    ends = [head.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in head]
    begin = min(ends, default=len(head))
    lines = head[:begin].decode("ascii", "replace").splitlines()
    fields = (line.partition(":") for line in lines if ":" in line and not line.startswith("#"))
    return {key.strip().lower(): value.strip().lower() for key, _, value in fields}, begin


def _bytes_of(reader: object) -> int:
    import SimpleITK

    names = {
        SimpleITK.sitkUInt8: 1, SimpleITK.sitkInt8: 1, SimpleITK.sitkUInt16: 2, SimpleITK.sitkInt16: 2,
        SimpleITK.sitkUInt32: 4, SimpleITK.sitkInt32: 4, SimpleITK.sitkFloat32: 4,
        SimpleITK.sitkVectorUInt8: 1, SimpleITK.sitkVectorInt8: 1, SimpleITK.sitkVectorUInt16: 2,
        SimpleITK.sitkVectorInt16: 2, SimpleITK.sitkVectorFloat32: 4,
    }  # fmt: skip
    return names.get(reader.GetPixelID(), 8)  # type: ignore[attr-defined]


def _png(path: Path) -> None:
    """Step over the chunks up to the last one (PNG specification, 5.3)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 8
        while position + 12 <= size:
            file.seek(position)
            length, name = struct.unpack(">I4s", file.read(8))
            position += 12 + length
            if name == b"IEND" and position <= size:
                return
    raise ImageError(path, "cut off: the end of the PNG file is missing; copy it again")


def _jpeg(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        if b"\xff\xd9" not in file.read():
            raise ImageError(path, "cut off: the end of the JPEG file is missing; copy it again")
