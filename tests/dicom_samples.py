"""Small DICOM objects for tests, written as a scanner would: series, enhanced multi-frame, SEG, RTSTRUCT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

CT = UID("1.2.840.10008.5.1.4.1.1.2")
MR = UID("1.2.840.10008.5.1.4.1.1.4")
DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4.1")
SEG = UID("1.2.840.10008.5.1.4.1.1.66.4")
RTSTRUCT = UID("1.2.840.10008.5.1.4.1.1.481.3")
CLASSES = {"CT": CT, "MR": MR, "DX": DX}
ROOT = "1.2.826.0.1.3680043.8.498."
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Edit = Callable[[int, Dataset], None]


def uid(*parts: object) -> str:
    """A UID that depends on its parts only."""
    return ROOT + ".".join(str(abs(hash_of(part)) % 10**9) for part in parts)


def hash_of(part: object) -> int:
    return int.from_bytes(str(part).encode()[-7:].rjust(7, b"a"), "big") + len(str(part))


def oblique(spacing=(0.7, 0.9, 2.5), origin=(-31.5, 12.25, 77.125)) -> np.ndarray:
    """An affine (RAS mm) that is turned about two axes, with three different spacings."""
    a, b = np.radians(20), np.radians(-35)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tip = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tip @ np.diag([-1, -1, 1]) * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def ramp(shape=(7, 6, 5), dtype=np.int16) -> np.ndarray:
    """A volume ``W, H, D`` in which every voxel has another value."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def basic(sop_class: UID, modality: str, patient: str, series: str, number: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{series}.{number + 1}"
    ds.preamble = b"\0" * 128
    ds.Modality, ds.PatientID, ds.PatientName = modality, patient, "Test^Person"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(patient, "study"), series
    ds.FrameOfReferenceUID, ds.SeriesDescription = uid(patient, "frame"), f"{modality} test"
    ds.InstanceNumber = number + 1
    return ds


def set_pixels(ds: Dataset, frames: np.ndarray, photometric: str = "MONOCHROME2") -> None:
    """``frames`` is ``[frames,] H, W[, 3]``, of 8 or 16 bits."""
    colour = frames.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2")
    plane = frames.shape[-3:-1] if colour else frames.shape[-2:]
    ds.Rows, ds.Columns = plane
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = frames.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(frames.dtype.kind == "i")
    content = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OB" if frames.dtype.itemsize == 1 else "OW"


def place(ds: Dataset, affine: np.ndarray, level: int) -> None:
    """Set position, orientation and spacing of slice ``level`` of a volume with an affine (RAS)."""
    lps = LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    ds.ImagePositionPatient = decimals(lps[:3, 3] + level * lps[:3, 2])
    ds.ImageOrientationPatient = decimals(np.r_[lps[:3, 0] / lengths[0], lps[:3, 1] / lengths[1]])
    ds.PixelSpacing = decimals([lengths[1], lengths[0]])
    ds.SliceThickness = decimals([lengths[2]])[0]


def decimals(values: Any) -> list[str]:
    """A DS value has 16 characters at most."""
    return [f"{float(value):.10g}"[:16] for value in values]


def series_datasets(volume, affine, *, modality="MR", patient="P1", series=None, edit: Edit | None = None):
    """Return one dataset a slice, in order."""
    series = series or uid(patient, modality, "series")
    datasets = []
    for level in range(volume.shape[2]):
        ds = basic(CLASSES[modality], modality, patient, series, level)
        place(ds, affine, level)
        if modality == "CT":
            ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        set_pixels(ds, np.ascontiguousarray(volume[:, :, level].T))
        if edit is not None:
            edit(level, ds)
        datasets.append(ds)
    return datasets


def write_series(folder: Path, volume=None, affine=None, *, names: Any = None, **options) -> list[Path]:
    """Write a series; ``names(level)`` gives the files' names."""
    volume = ramp() if volume is None else volume
    affine = oblique() if affine is None else affine
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for level, ds in enumerate(series_datasets(volume, affine, **options)):
        path = folder / (names(level) if names else f"{level:03d}.dcm")
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_radiograph(path: Path, pixels=None, *, patient="X1", photometric="MONOCHROME2", edit=None) -> Path:
    """Write a radiograph ``H, W``, a file and an image of its own."""
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) if pixels is None else pixels
    ds = basic(DX, "DX", patient, uid(patient, path.name, "dx"), 0)
    ds.ImagerPixelSpacing = [0.2, 0.2]
    set_pixels(ds, pixels, photometric)
    if edit is not None:
        edit(0, ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def item(**elements: Any) -> Sequence:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def frame_groups(affine: np.ndarray, level: int) -> Dataset:
    ds, own = Dataset(), Dataset()
    place(ds, affine, level)
    own.PlanePositionSequence = item(ImagePositionPatient=ds.ImagePositionPatient)
    return own


def write_enhanced(
    path: Path, volumes, affine, *, order=None, patient="E1", slope=2.0, intercept=-5.0, frame_edit=None, edit=None
) -> Path:
    """Write an enhanced multi-frame MR file from one or more volumes ``W, H, D`` of the same place.

    ``frame_edit(groups, level, number of the volume)`` changes the functional groups of a frame.
    """
    geometry, shared = Dataset(), Dataset()
    place(geometry, affine, 0)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=geometry.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=geometry.PixelSpacing, SliceThickness=geometry.SliceThickness)
    shared.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
    frames = [(level, volume, time) for time, volume in enumerate(volumes) for level in range(volume.shape[2])]
    frames = [frames[index] for index in order] if order is not None else frames
    ds = basic(ENHANCED_MR, "MR", patient, uid(patient, "enhanced"), 0)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = [frame_groups(affine, level) for level, _, _ in frames]
    for own, (level, _, time) in zip(groups, frames, strict=True):
        if frame_edit is not None:
            frame_edit(own, level, time)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    set_pixels(ds, np.stack([volume[:, :, level].T for level, volume, _ in frames]))
    ds.NumberOfFrames = len(frames)
    if edit is not None:
        edit(0, ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_segmentation(path: Path, masks: dict, affine, source: Dataset) -> Path:
    """Write a binary SEG of masks ``W, H, D`` by name; frames of slices without a marked voxel are left out."""
    ds = basic(SEG, "SEG", source.PatientID, uid(path.name, "seg"), 0)
    ds.ReferencedSeriesSequence = item(SeriesInstanceUID=source.SeriesInstanceUID)
    ds.SegmentationType = "BINARY"
    ds.SegmentSequence = Sequence(
        [item(SegmentNumber=number, SegmentLabel=name)[0] for number, name in enumerate(masks, start=1)]
    )
    geometry, shared = Dataset(), Dataset()
    place(geometry, affine, 0)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=geometry.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=geometry.PixelSpacing)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups, planes = [], []
    for number, mask in enumerate(masks.values(), start=1):
        for level in np.nonzero(mask.any(axis=(0, 1)))[0]:
            own = frame_groups(affine, int(level))
            own.SegmentIdentificationSequence = item(ReferencedSegmentNumber=number)
            groups.append(own)
            planes.append(mask[:, :, level].T)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(planes), *planes[0].shape
    ds.BitsAllocated = ds.BitsStored = ds.SamplesPerPixel = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    packed = np.packbits(np.stack(planes).ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    ds["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_contours(path: Path, regions: dict, affine, source: Dataset) -> Path:
    """Write an RTSTRUCT; ``regions`` has by name lists of contours, each ``N, 3`` of voxel coordinates."""
    ds = basic(RTSTRUCT, "RTSTRUCT", source.PatientID, uid(path.name, "rtstruct"), 0)
    series = item(SeriesInstanceUID=source.SeriesInstanceUID)
    ds.ReferencedFrameOfReferenceSequence = item(
        FrameOfReferenceUID=source.FrameOfReferenceUID,
        RTReferencedStudySequence=item(RTReferencedSeriesSequence=series),
    )
    ds.StructureSetROISequence = Sequence(
        [item(ROINumber=number, ROIName=name)[0] for number, name in enumerate(regions, start=1)]
    )
    lps, parts = LPS @ affine, []
    for number, contours in enumerate(regions.values(), start=1):
        drawn = []
        for contour in contours:
            points = (lps @ np.c_[np.asarray(contour, float), np.ones(len(contour))].T)[:3].T
            drawn.append(
                item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=decimals(points.ravel()),
                )[0]
            )
        parts.append(item(ReferencedROINumber=number, ContourSequence=Sequence(drawn))[0])
    ds.ROIContourSequence = Sequence(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
