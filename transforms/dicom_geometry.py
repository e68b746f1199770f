"""Where the frames of a DICOM image lie, and how they make a volume.

Positions and directions are the patient's (PS3.3, C.7.6.2: x to the left, y to the back, z to the head, in mm). An
affine leads from an index ``(column, row, slice)`` to millimetres, in RAS as MONAI and NIfTI have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_med.transforms.dicom_elements import (
    Floats,
    first_item,
    functional_group,
    number_of,
    orientation_of,
    pixel_spacing,
    slice_distance,
    vector_of,
)
from fedhelp_med.transforms.dicom_file import DicomFile
from fedhelp_med.transforms.errors import ImageError

SAME = 1e-2  # mm; positions are written with few digits
UNEVEN = 0.05  # of the spacing: more is a gap, less is rounding
TILT = 0.5  # degrees; less is rounding
MAXIMUM_TILT = 45.0  # degrees; no gantry tilts further
TRAITS = (
    ("MREchoSequence", "EffectiveEchoTime"), ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"),
)  # fmt: skip
"""What tells apart the frames of one place, by the macro that it stands in."""
DIMENSIONS_OF_SPACE = (0x00200032, 0x00209056, 0x00209057)
"""The position, the stack and the position in it: they tell places apart, not what is seen there."""
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one file.

    Attributes:
        file: index of the file.
        index: of the frame in its file.
        position: of the first pixel's centre, mm; None where the file does not say.
        orientation: unit vectors along a row and down a column, ``2, 3``; None where the file does not say.
        spacing: between columns, between rows, mm; None where the file does not say.
        thickness: of a single slice, or the distance of slices without a place, mm; None where the file does not say.
        slope: of the rescaling, or None.
        intercept: of the rescaling.
        indices: of the frame in the dimensions of the file other than its place (PS3.3, C.7.6.17); empty without.
        traits: echo time in ms, b-value, number of the time; -1 where the file does not say.
    """

    file: int
    index: int
    position: Floats | None
    orientation: Floats | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float | None
    intercept: float
    indices: tuple[int, ...] = ()
    traits: tuple[float, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """How frames make a volume.

    Attributes:
        order: the frames along the normal, ascending.
        affine: ``4, 4``, index to RAS mm.
        tilt: of the gantry in degrees: the slices are shifted against each other, which the affine accounts for.
        located: whether the file says where it lies; else the affine has the spacing only.
        measured: whether the file says how far pixels and slices are apart; else 1 mm is assumed of what it leaves out.
    """

    order: tuple[Frame, ...]
    affine: Floats
    tilt: float
    located: bool
    measured: bool


def frames_of(file: DicomFile, number: int) -> list[Frame]:
    """Return the frames of a file.

    Args:
        file: whose header was read.
        number: index of the file among those of the image.

    Raises:
        ImageError: a geometry that cannot be one.
    """
    header = file.header
    shared = first_item(header, "SharedFunctionalGroupsSequence")
    every = header.get("PerFrameFunctionalGroupsSequence") or []
    if every and len(every) != file.frames:
        raise ImageError(file.path, f"{file.frames} frames, but functional groups for {len(every)}; export it again")
    frames = []
    for index in range(file.frames):
        places = [place for place in ((every[index] if every else None), shared) if place is not None]
        position = functional_group(places, "PlanePositionSequence", header if file.frames == 1 else None)
        orientation = functional_group(places, "PlaneOrientationSequence", header)
        measures = functional_group(places, "PixelMeasuresSequence", header)
        values = functional_group(places, "PixelValueTransformationSequence", header)
        frames.append(
            Frame(
                number,
                index,
                vector_of(file.path, position, "ImagePositionPatient", 3),
                orientation_of(file.path, orientation),
                pixel_spacing(file.path, measures),
                slice_distance(file.path, measures),
                number_of(file.path, values, "RescaleSlope"),
                number_of(file.path, values, "RescaleIntercept") or 0.0,
            )
        )
    known = {None if frame.position is None else frame.position.tobytes() for frame in frames}
    if not every or len(known) == len(frames):
        return frames  # every frame has a place of its own
    dimensions = _dimensions(header)
    told = [_told_apart(file.path, every[frame.index], shared, dimensions) for frame in frames]
    return [replace(frame, indices=own[0], traits=own[1]) for frame, own in zip(frames, told, strict=True)]


def arrange(path: Path, frames: Sequence[Frame]) -> Geometry:
    """Sort frames along their normal and find their affine.

    Args:
        path: what an error names.
        frames: of one image.

    Raises:
        ImageError: several orientations or spacings, duplicates, gaps, uneven steps.
    """
    first = frames[0]
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return Geometry(tuple(frames), _plain_affine(first), 0.0, False, _measured(first))
    _check_alike(path, frames)
    assert first.orientation is not None
    row, column = first.orientation
    normal = np.cross(row, column)
    if len(frames) > 1 and all(_near(frame, first) for frame in frames):
        affine = _affine(first, (first.thickness or 1.0) * normal)
        return Geometry(tuple(frames), affine, 0.0, True, _measured(first))  # a cine at one place
    depths = np.array([float(np.dot(frame.position, normal)) for frame in frames])  # type: ignore[arg-type]
    order = np.argsort(depths, kind="stable")
    ordered = tuple(frames[index] for index in order)
    if len(ordered) == 1:
        return Geometry(ordered, _affine(first, (first.thickness or 1.0) * normal), 0.0, True, _measured(first))
    _check_steps(path, depths[order])
    start, end = ordered[0].position, ordered[-1].position
    assert start is not None and end is not None
    step = (end - start) / (len(ordered) - 1)
    _check_straight(path, ordered, start, step)
    tilt = float(np.degrees(np.arccos(np.clip(np.dot(step, normal) / np.linalg.norm(step), -1, 1))))
    if tilt > MAXIMUM_TILT:
        raise ImageError(path, f"its slices move {tilt:.0f} degrees off their normal: not one volume; split the series")
    tilt = tilt if tilt > TILT else 0.0
    return Geometry(ordered, _affine(ordered[0], step), tilt, True, first.spacing is not None)


def volumes(path: Path, frames: Sequence[Frame]) -> list[list[Frame]]:
    """Divide frames that come back to the same places (echoes, times, b-values) into one list per pass.

    A pass holds the frames of one echo, time or b-value, in whatever order the file has them. Frames that nothing tells
    apart keep their order. Where places are not visited equally often, all stay together.

    Args:
        path: what an error names.
        frames: of one file.

    Raises:
        ImageError: the places do not have the same echoes, times or b-values.
    """
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return [list(frames)]
    places: dict[tuple[float, ...], list[Frame]] = {}
    for frame in frames:
        assert frame.position is not None
        places.setdefault(tuple(np.round(frame.position / SAME).tolist()), []).append(frame)
    counts = {len(place) for place in places.values()}
    if len(counts) != 1 or len(places) == 1:
        return [list(frames)]
    visits = _in_one_order(path, list(places.values()))
    return [list(part) for part in zip(*visits, strict=True)]


def _in_one_order(path: Path, places: list[list[Frame]]) -> list[list[Frame]]:
    """Sort the frames of each place so that the first of all places belong together, and so on."""
    alike = True
    for keyword in ("indices", "traits"):
        found = [sorted(str(getattr(frame, keyword)) for frame in place) for place in places]
        same = all(keys == found[0] for keys in found)
        if same and len(set(found[0])) == len(found[0]):
            return [sorted(place, key=attrgetter(keyword)) for place in places]
        alike &= same
    if alike:
        return places  # nothing tells them apart
    raise ImageError(path, "its places do not have the same echoes, times or b-values: no volumes; split the file")


def _dimensions(header: Any) -> list[int]:
    """Which of the file's dimensions are not of space."""
    pointers = [item.get("DimensionIndexPointer") for item in header.get("DimensionIndexSequence") or []]
    return [number for number, pointer in enumerate(pointers) if pointer not in DIMENSIONS_OF_SPACE]


def _told_apart(path: Path, own: Any, shared: Any, dimensions: Sequence[int]) -> tuple[Any, Any]:
    """What tells a frame from others at its place: its indices, and its traits."""
    places = [own] if shared is None else [own, shared]
    content = first_item(own, "FrameContentSequence")
    values = [] if content is None else content.get("DimensionIndexValues") or []
    values = [values] if isinstance(values, int) else list(values)
    indices = tuple(int(values[number]) for number in dimensions if number < len(values))
    traits = []
    for sequence, keyword in TRAITS:
        number = number_of(path, functional_group(places, sequence, None), keyword)
        traits.append(-1.0 if number is None else round(number, 3))
    return indices, tuple(traits)


def _check_alike(path: Path, frames: Sequence[Frame]) -> None:
    first = frames[0]
    assert first.orientation is not None
    for frame in frames[1:]:
        assert frame.orientation is not None
        if np.abs(frame.orientation - first.orientation).max() > 1e-3:
            raise ImageError(path, "slices of several orientations in one series (a localiser?); leave it out")
        if frame.spacing != first.spacing and (
            frame.spacing is None
            or first.spacing is None
            or max(abs(a - b) for a, b in zip(frame.spacing, first.spacing, strict=True)) > 1e-3
        ):
            raise ImageError(path, f"slices with pixels of {first.spacing} mm and of {frame.spacing} mm in one series")


def _check_steps(path: Path, depths: Floats) -> None:
    steps = np.diff(depths)
    usual = float(np.median(steps))
    if steps.min() < SAME:
        doubles = int((steps < SAME).sum())
        at = float(depths[int(steps.argmin())])
        raise ImageError(
            path, f"{doubles + 1} slices at the same position ({at:.2f} mm); remove copies, or split the series"
        )
    worst = int(np.abs(steps - usual).argmax())
    if abs(steps[worst] - usual) > max(UNEVEN * usual, SAME):
        missing = round(steps[worst] / usual) - 1
        between = f"between {depths[worst]:.2f} and {depths[worst + 1]:.2f} mm"
        if missing >= 1 and abs(steps[worst] - (missing + 1) * usual) <= max(UNEVEN * usual, SAME):
            raise ImageError(
                path, f"{missing} slice(s) missing {between}, where slices are {usual:.3g} mm apart; export it again"
            )
        raise ImageError(
            path, f"uneven slices: {steps[worst]:.3g} mm apart {between}, {usual:.3g} mm elsewhere; resample it first"
        )


def _check_straight(path: Path, frames: Sequence[Frame], start: Floats, step: Floats) -> None:
    expected = start + np.arange(len(frames))[:, None] * step
    found = np.array([frame.position for frame in frames])
    off = float(np.linalg.norm(found - expected, axis=1).max())
    if off > max(UNEVEN * float(np.linalg.norm(step)), 0.1) * 2:
        raise ImageError(path, f"slices lie up to {off:.2f} mm off a straight line: contradictory positions")


def _affine(frame: Frame, step: Floats) -> Floats:
    assert frame.orientation is not None and frame.position is not None
    columns, rows = frame.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = frame.orientation[0] * columns
    affine[:3, 1] = frame.orientation[1] * rows
    affine[:3, 2] = step
    affine[:3, 3] = frame.position
    ras: Floats = TO_RAS @ affine
    return ras


def _plain_affine(frame: Frame) -> Floats:
    columns, rows = frame.spacing or (1.0, 1.0)
    ras: Floats = TO_RAS @ np.diag([columns, rows, frame.thickness or 1.0, 1.0])
    return ras


def _measured(frame: Frame) -> bool:
    return frame.spacing is not None and frame.thickness is not None


def _near(frame: Frame, other: Frame) -> bool:
    assert frame.position is not None and other.position is not None
    return bool(np.abs(frame.position - other.position).max() < SAME)
