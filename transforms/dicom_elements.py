"""Elements of a DICOM header as numbers, from wherever in it they stand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedhelp_med.transforms.errors import ImageError

Floats = npt.NDArray[np.float64]


def first_item(header: Any, keyword: str) -> Any:
    """The first item of a sequence; None where there is none."""
    items = header.get(keyword) or []
    return items[0] if len(items) else None


def functional_group(places: Sequence[Any], keyword: str, otherwise: Any) -> Any:
    """The macro of a frame: its own, the shared one, else the file's own elements."""
    for place in places:
        found = first_item(place, keyword)
        if found is not None:
            return found
    return otherwise


def number_of(path: Path, place: Any, keyword: str) -> float | None:
    """A finite number in an element; None where it is absent or empty.

    Raises:
        ImageError: it is no number, or a rescale slope of 0.
    """
    value = None if place is None else place.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ImageError(path, f"{keyword} is {value!r}, not a number; export it again") from None
    if not np.isfinite(number) or (keyword == "RescaleSlope" and number == 0):
        raise ImageError(path, f"{keyword} is {number:g}; export it again")
    return number


def vector_of(path: Path, place: Any, keyword: str, length: int) -> Floats | None:
    """So many finite numbers in an element; None where it is absent or empty.

    Raises:
        ImageError: they are no numbers, or others in number.
    """
    value = None if place is None else place.get(keyword)
    if value is None or value == "" or value == []:
        return None
    try:
        vector = np.array([float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        raise ImageError(path, f"{keyword} is {value!r}, not {length} numbers; export it again") from None
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ImageError(path, f"{keyword} is {list(value)}, not {length} numbers; export it again")
    return vector


def orientation_of(path: Path, place: Any) -> Floats | None:
    """The directions of rows and columns, ``2, 3`` unit vectors in the patient's axes; None where they are absent.

    Raises:
        ImageError: they are no unit vectors at right angles.
    """
    vector = vector_of(path, place, "ImageOrientationPatient", 6)
    if vector is None:
        return None
    pair = vector.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if lengths.min() < 0.9 or lengths.max() > 1.1 or abs(float(np.dot(pair[0], pair[1]))) > 0.01:
        raise ImageError(path, f"ImageOrientationPatient {vector.tolist()} is no pair of unit vectors at right angles")
    return pair


def slice_distance(path: Path, place: Any) -> float | None:
    """From slice to slice in mm, else the slices' thickness; None where the file says neither."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = number_of(path, place, keyword)
        if value:
            return abs(value)  # nuclear medicine gives the spacing a sign
    return None


def pixel_spacing(path: Path, place: Any) -> tuple[float, float] | None:
    """From column to column and from row to row, in mm; None where the file does not say.

    Raises:
        ImageError: it is not above 0.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        vector = vector_of(path, place, keyword, 2)
        if vector is not None:
            if vector.min() <= 0:
                raise ImageError(path, f"{keyword} is {vector.tolist()} mm: spacing must be above 0; export it again")
            return float(vector[1]), float(vector[0])
    return None
