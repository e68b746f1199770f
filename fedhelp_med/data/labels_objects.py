"""Masks from DICOM label objects: segmentations (SEG, PS3.3 A.51) and contours (RTSTRUCT, PS3.3 A.19)."""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.studies import LabelObject
from fedhelp_med.transforms.dicom_file import quiet, read_dataset
from fedhelp_med.transforms.dicom_geometry import TO_RAS
from fedhelp_med.transforms.errors import ImageError, reader_reason

Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.floating[Any]]

OFF_GRID = 0.1  # of a voxel: a segmentation that lies further off is of another grid
OFF_SLICE = 0.5  # of the slice distance: a contour further off is of another slice


@dataclass(frozen=True)
class Structure:
    """One named region of an image, kept small: a scan holds the regions of all studies until it knows the classes.

    Attributes:
        name: as the object calls it.
        shape: of the image, ``W, H[, D]``.
        packed: the region's bits, compressed.
    """

    name: str
    shape: tuple[int, ...]
    packed: bytes

    @classmethod
    def of(cls, name: str, mask: Mask) -> "Structure":
        """Pack a region."""
        return cls(name, mask.shape, zlib.compress(np.packbits(mask).tobytes(), level=1))

    @property
    def mask(self) -> Mask:
        """The region, in the image's axes ``W, H[, D]``."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=math.prod(self.shape)).reshape(self.shape).view(np.bool_)


def referenced_series(label: LabelObject) -> str:
    """Return the UID of the series that a label object is about, empty when it does not say.

    Raises:
        ImageError: it cannot be read.
    """
    dataset = read_dataset(label.path)
    if label.kind == "seg":
        series = dataset.get("ReferencedSeriesSequence") or []
        return str(series[0].get("SeriesInstanceUID", "")) if series else ""
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.get("SeriesInstanceUID", ""))
    return ""


def read_structures(label: LabelObject, shape: Sequence[int], affine: Affine) -> list[Structure]:
    """Draw a label object into the grid of its image.

    Args:
        label: the object.
        shape: of the image, ``W, H[, D]``.
        affine: ``4, 4`` of the image, index to RAS mm.

    Raises:
        ImageError: it cannot be read, or lies on another grid.
        InputError: scikit-image is missing, for contours.
    """
    dataset = read_dataset(label.path)
    volume = (*shape[:2], shape[2] if len(shape) > 2 else 1)
    to_index = np.linalg.inv(affine) @ TO_RAS
    try:
        with quiet():
            if label.kind == "seg":
                structures = _segments(label.path, dataset, volume, to_index)
            else:
                structures = _contours(label.path, dataset, volume, to_index)
    except (ImageError, InputError):
        raise
    except Exception as error:  # an object that lacks what its standard demands
        reason = f"a damaged {label.kind.upper()} ({reader_reason(error)}); export it again"
        raise ImageError(label.path, reason) from None
    if not structures:
        raise ImageError(label.path, f"a {label.kind.upper()} without any region; leave it out")
    return [dataclasses.replace(item, shape=tuple(shape)) for item in structures]


def _segments(path: Path, dataset: Any, volume: tuple[int, ...], to_index: Affine) -> list[Structure]:
    frames = np.asarray(dataset.pixel_array)
    frames = frames[None] if frames.ndim == 2 else frames
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
    kind = str(dataset.get("SegmentationType", "BINARY"))
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    limit = int(dataset.get("MaximumFractionalValue", 1)) / 2 if kind == "FRACTIONAL" else 0.5
    groups = dataset.PerFrameFunctionalGroupsSequence
    to_voxels = [to_index @ _frame_affine(group, shared[0]) for group in groups]
    owners = None
    if kind != "LABELMAP":
        owners = [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]
        if unknown := set(owners) - set(names):
            raise ImageError(path, f"has frames of segment {min(unknown)}, which it does not describe; export it again")
    structures = []
    for number, name in names.items():
        mask = np.zeros(volume, np.bool_)
        for place, (pixels, transform) in enumerate(zip(frames, to_voxels, strict=True)):
            if owners is None:
                _place(path, mask, pixels == number, transform)
            elif owners[place] == number:
                _place(path, mask, pixels > limit, transform)
        structures.append(Structure.of(name, mask))
    return structures


def _frame_affine(groups: Any, shared: Any) -> Affine:
    def macro(keyword: str) -> Any:
        own = groups.get(keyword)
        return (own if own else shared[keyword].value)[0]

    orientation = np.array(macro("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = (float(part) for part in macro("PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[0] * columns, orientation[1] * rows
    affine[:3, 2] = np.cross(*orientation)
    affine[:3, 3] = np.array(macro("PlanePositionSequence").ImagePositionPatient, float)
    return affine


def _place(path: Path, mask: Mask, pixels: Mask, to_voxels: Affine) -> None:
    """Set the voxels that the pixels of a frame lie on."""
    rows, columns = np.nonzero(pixels)
    points = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)]).astype(np.float64)
    voxels = (to_voxels @ points)[:3]
    nearest = np.rint(voxels)
    if voxels.size and np.abs(voxels - nearest).max() > OFF_GRID:
        raise ImageError(path, "a segmentation on another grid than its image; resample it to the image")
    index = nearest.astype(int)
    inside = (index >= 0).all(axis=0) & (index < np.array(mask.shape)[:, None]).all(axis=0)
    if not inside.all():
        raise ImageError(path, "a segmentation that reaches beyond its image; is it of another series?")
    mask[tuple(index)] = True


def _contours(path: Path, dataset: Any, volume: tuple[int, ...], to_index: Affine) -> list[Structure]:
    try:
        from skimage.draw import polygon
    except ImportError:
        raise InputError(f"{path}: contours need scikit-image; pip install 'fedhelp-med[dicom]'") from None
    names = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
    structures = []
    for region in dataset.get("ROIContourSequence") or []:
        mask = np.zeros(volume, np.bool_)
        for contour in region.get("ContourSequence") or []:
            if contour.get("ContourGeometricType") != "CLOSED_PLANAR":
                continue
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            voxels = (to_index @ np.c_[points, np.ones(len(points))].T)[:3]
            level = round(float(voxels[2].mean()))
            if np.abs(voxels[2] - level).max() > OFF_SLICE or not 0 <= level < volume[2]:
                raise ImageError(path, f"the contour of {names[int(region.ReferencedROINumber)]!r} lies on no slice")
            columns, rows = polygon(voxels[0], voxels[1], volume[:2])
            mask[columns, rows, level] ^= True  # a contour inside another is a hole
        if mask.any():
            structures.append(Structure.of(names[int(region.ReferencedROINumber)], mask))
    return structures
