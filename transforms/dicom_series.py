"""Reading DICOM images: a file, a list of files, or the folder of a series."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedhelp_med.transforms.dicom_file import DicomFile, read_dicom_file, readable
from fedhelp_med.transforms.dicom_geometry import Geometry, arrange, frames_of, volumes
from fedhelp_med.transforms.dicom_pixels import (
    ValueRules,
    colour_values,
    decode,
    fill_padding,
    grey_values,
    is_colour,
)
from fedhelp_med.transforms.errors import ImageError, NotAnImageError
from fedhelp_med.transforms.sniff import is_dicom


@dataclass(frozen=True)
class ImageData:
    """An image in memory.

    Attributes:
        array: float32 in MONAI's order of axes: ``W, H[, D][, C]``.
        affine: ``4, 4``, index to millimetres, RAS.
        channels: whether the last axis is of channels.
        notes: what else is known, such as ``gantry_tilt`` in degrees.
    """

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    channels: bool
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DicomImage:
    """The headers of one image, put in order.

    Attributes:
        path: what an error names.
        files: of the image.
        passes: the geometry of each volume, all of one place; more than one for a multi-frame image over time.
    """

    path: Path
    files: tuple[DicomFile, ...]
    passes: tuple[Geometry, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that ``read_dicom`` gives."""
        depth = len(self.passes[0].order)
        spatial = self.files[0].size if depth == 1 and not self._is_stack else (*self.files[0].size, depth)
        return (*spatial, *self._channels)

    @property
    def has_channels(self) -> bool:
        """Whether the last axis is of channels."""
        return bool(self._channels)

    @property
    def _is_stack(self) -> bool:
        return self.files[0].frames > 1

    @property
    def _channels(self) -> tuple[int, ...]:
        if is_colour(self.files[0]):
            return (3,)
        return (len(self.passes),) if len(self.passes) > 1 else ()


def open_dicom(source: Path | Sequence[Path]) -> DicomImage:
    """Read the headers of an image and put its frames in order.

    Args:
        source: a file, the files of one series in any order, or the folder that holds them.

    Raises:
        ImageError: not one image; the reason says why.
    """
    if isinstance(source, Path):
        return assemble(source, _files_in(source) if source.is_dir() else [read_dicom_file(source)])
    files = [read_dicom_file(path) for path in source]
    if not files:
        raise ImageError("files", "an empty list; name the files of a series")
    return assemble(files[0].path.parent if len(files) > 1 else files[0].path, files)


def assemble(path: Path, files: Sequence[DicomFile]) -> DicomImage:
    """Put the frames of files, whose headers were read, in order.

    Raises:
        ImageError: not one image; the reason says why.
    """
    with readable(path):
        _check_same(path, files)
        frames = [frame for number, file in enumerate(files) for frame in frames_of(file, number)]
    if len(files) > 1:
        for frame in frames:
            if frame.position is None or frame.orientation is None:
                name = files[frame.file].path.name
                raise ImageError(path, f"{name} has no position or orientation, so the slices have no order; remove it")
        return DicomImage(path, tuple(files), (arrange(path, frames),))
    parts = [frames] if is_colour(files[0]) else volumes(path, frames)
    return DicomImage(path, tuple(files), tuple(arrange(path, part) for part in parts))


def read_dicom(source: Path | Sequence[Path] | DicomImage, rules: ValueRules | None = None) -> ImageData:
    """Read an image with its geometry.

    Args:
        source: see ``open_dicom``, or what it returned.
        rules: how stored values become an image.

    Raises:
        ImageError: it cannot be read, or is not one image.
    """
    image = source if isinstance(source, DicomImage) else open_dicom(source)
    rules = rules or ValueRules()
    first = image.files[0]
    colour = is_colour(first)
    columns, rows = first.size
    depth = len(image.passes[0].order)
    places = {
        (frame.file, frame.index): (number, level)
        for number, geometry in enumerate(image.passes)
        for level, frame in enumerate(geometry.order)
    }
    frames = {(frame.file, frame.index): frame for geometry in image.passes for frame in geometry.order}
    volume = np.empty((len(image.passes), depth, rows, columns, *((3,) if colour else ())), np.float32)
    masks: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
    for number, file in enumerate(image.files):
        with readable(file.path):
            for index, stored in enumerate(decode(file)):
                place = places[number, index]
                if colour:
                    volume[place] = colour_values(stored, file)
                    continue
                volume[place], mask = grey_values(stored, file, frames[number, index], rules)
                if mask is not None:
                    masks[place] = mask
    if masks:
        every = np.zeros(volume.shape, np.bool_)
        for place, mask in masks.items():
            every[place] = mask
        fill_padding(volume, every)
    return _oriented(image, volume)


def _oriented(image: DicomImage, volume: npt.NDArray[np.float32]) -> ImageData:
    """From ``T, D, H, W[, 3]`` to MONAI's ``W, H[, D][, C]``."""
    if is_colour(image.files[0]):
        array = volume[0].transpose(2, 1, 0, 3)
    elif len(image.passes) > 1:
        array = volume.transpose(3, 2, 1, 0)
    else:
        array = volume[0].transpose(2, 1, 0)
    geometry = image.passes[0]
    notes = {
        "modality": image.files[0].text("Modality"),
        "series_instance_uid": image.files[0].text("SeriesInstanceUID"),
        "gantry_tilt": geometry.tilt,
        "located": geometry.located,
        "spacing_known": geometry.measured,
    }
    return ImageData(array.reshape(image.shape), geometry.affine, image.has_channels, notes)


def _files_in(folder: Path) -> list[DicomFile]:
    """The images directly in a folder; other files may lie beside them, damaged images may not."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_dicom(path):
            try:
                files.append(read_dicom_file(path))
            except NotAnImageError:
                continue
    if not files:
        raise ImageError(folder, "no DICOM image in this folder; name the folder of one series")
    return files


def _check_same(path: Path, files: Sequence[DicomFile]) -> None:
    """Refuse files that are not of one series, or not of one kind."""
    first = files[0]
    if len(files) > 1 and any(file.frames > 1 for file in files):
        raise ImageError(path, f"{len(files)} files with several frames each: several images; name one file")
    for keyword in ("SeriesInstanceUID", "PatientID"):
        found = {file.text(keyword): file.path.name for file in files}
        if len(found) > 1:
            names = " and ".join(list(found.values())[:2])
            what = "series" if keyword == "SeriesInstanceUID" else "patients"
            raise ImageError(path, f"{len(found)} {what} ({names} among them); keep one series in a folder")
    for file in files[1:]:
        if file.size != first.size or file.samples != first.samples:
            raise ImageError(
                path,
                f"{file.path.name} has {file.size[0]} x {file.size[1]} pixels of {file.samples} sample(s), "
                f"{first.path.name} {first.size[0]} x {first.size[1]} of {first.samples}; remove the odd one",
            )
