"""From DICOM files to images: which files make one volume, and which make none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fedhelp_med.data.walk import Rejected
from fedhelp_med.transforms.dicom_file import DicomFile
from fedhelp_med.transforms.dicom_geometry import SAME, frames_of
from fedhelp_med.transforms.dicom_series import assemble
from fedhelp_med.transforms.errors import ImageError

PROJECTIONS = {"CR", "DX", "MG", "US", "IO", "PX", "RG", "RF", "XA", "XC", "ES", "GM", "OP", "SM", "OT", "IVUS"}
"""Modalities in which a file is an image of its own, wherever it says that it lies."""

PARTS = ("EchoNumbers", "EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier", "DiffusionBValue",
         "InversionTime", "TriggerTime", "ImageType", "AcquisitionTime")  # fmt: skip
"""What tells the volumes of one series apart: echoes, times, b-values, magnitude and phase."""


@dataclass(frozen=True)
class Group:
    """The files of one image.

    Attributes:
        files: in the order of their positions.
        part: which volume of its series it is, or empty.
    """

    files: tuple[DicomFile, ...]
    part: str = ""


def group_dicom(files: Sequence[DicomFile]) -> tuple[list[Group], list[Rejected]]:
    """Sort files into images.

    Args:
        files: whose headers were read, in any order.

    Returns:
        The images, and the files that make none.
    """
    single, rejected = _without_copies(files)
    series: dict[tuple[str, ...], list[DicomFile]] = {}
    for file in single:
        series.setdefault(_series_key(file), []).append(file)
    groups: list[Group] = []
    for members in series.values():
        try:
            groups += _images(members)
        except ImageError as error:
            rejected += [Rejected(file.path, error.reason) for file in members]
    return groups, rejected


def _without_copies(files: Sequence[DicomFile]) -> tuple[list[DicomFile], list[Rejected]]:
    kept: dict[str, DicomFile] = {}
    rejected = []
    for file in sorted(files, key=lambda file: file.path):
        key = file.text("SOPInstanceUID") or str(file.path)
        earlier = kept.setdefault(key, file)
        if earlier is not file:
            rejected.append(Rejected(file.path, f"a copy of {earlier.path.name} (the same SOP Instance UID)"))
    return list(kept.values()), rejected


def _series_key(file: DicomFile) -> tuple[str, ...]:
    series = file.text("SeriesInstanceUID") or f"folder {file.path.parent}"
    alone = file.frames > 1 or file.text("Modality") in PROJECTIONS or not _has_place(file)
    return (series, str(file.path)) if alone and not _is_slice(file) else (series,)


def _has_place(file: DicomFile) -> bool:
    return bool(file.header.get("ImagePositionPatient")) and bool(file.header.get("ImageOrientationPatient"))


def _is_slice(file: DicomFile) -> bool:
    """Whether a file without a place claims to be of a stack, so that it cannot stand alone."""
    return file.frames == 1 and file.text("Modality") in ("CT", "MR", "PT") and not _enhanced(file)


def _enhanced(file: DicomFile) -> bool:
    return bool(file.header.get("PerFrameFunctionalGroupsSequence"))


def _images(files: list[DicomFile]) -> list[Group]:
    """One image, or the volumes of a series that visits its places several times.

    Raises:
        ImageError: the files are not one image, nor several.
    """
    place = files[0].path.parent if len(files) > 1 else files[0].path
    try:
        return [_group(place, files)]
    except ImageError as error:
        places = _places(files)
        for count in (1, 2):
            for keywords in combinations(PARTS, count):
                parts = _divide(files, keywords)
                if len(parts) < 2 or not all(_visits_all(part, places) for part in parts.values()):
                    continue  # half of the slices, or one slice over time, would also look like a volume
                try:
                    return [_group(place, part, name) for name, part in sorted(parts.items())]
                except ImageError:
                    continue
        raise error from None


def _divide(files: Sequence[DicomFile], keywords: Sequence[str]) -> dict[str, list[DicomFile]]:
    parts: dict[str, list[DicomFile]] = {}
    for file in files:
        name = ", ".join(f"{keyword} {file.text(keyword)}" for keyword in keywords)
        parts.setdefault(f"({name})", []).append(file)
    return parts


def _places(files: Sequence[DicomFile]) -> dict[Path, int]:
    """The number of the place that each file lies at, along the normal; empty where a file does not say."""
    try:
        frames = [frames_of(file, number)[0] for number, file in enumerate(files)]
    except ImageError:
        return {}
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return {}
    normal = np.cross(*frames[0].orientation)  # type: ignore[misc]
    depths = np.array([float(np.dot(frame.position, normal)) for frame in frames])  # type: ignore[arg-type]
    order = np.argsort(depths, kind="stable")
    numbers = np.concatenate([[0], np.cumsum(np.diff(depths[order]) >= SAME)])
    return {files[index].path: int(number) for index, number in zip(order, numbers, strict=True)}


def _visits_all(part: Sequence[DicomFile], places: Mapping[Path, int]) -> bool:
    """Whether a part of a series has one slice at every place of the series."""
    distinct = set(places.values())
    return len(distinct) > 1 and len(part) == len(distinct) == len({places[file.path] for file in part})


def _group(place: Path, files: Sequence[DicomFile], part: str = "") -> Group:
    image = assemble(place, files)
    order = [frame.file for frame in image.passes[0].order] if len(files) > 1 else [0]
    return Group(tuple(image.files[number] for number in order), part)
