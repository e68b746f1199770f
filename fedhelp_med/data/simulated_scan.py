"""The demo's simulated scans as files: NIfTI, or a DICOM MR series of the same voxels.

A series is what an MR scanner would store (MR Image Storage, DICOM PS3.3 A.4): a file for each slice, with its
geometry and a rescale, numbered along the normal, so that readers that go by numbers agree. Every UID follows from the
seed and names, so the same demo gives the same bytes.
"""

import io
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

SLOPE, INTERCEPT = 0.5, 16384.0
"""Stored = 2 * value - 32768 covers the values 0..32767 in 16 signed bits, and is exact in both directions."""


@dataclass(frozen=True)
class Scan:
    """A simulated scan.

    Attributes:
        voxels: ``D, H, W`` (z, y, x), int16 of 0..32767; uint8 for a mask.
        spacing: mm between voxels along x, y and between slices.
        centre: the middle of the scan in millimetres (x, y, z), RAS.
    """

    voxels: npt.NDArray[Any]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]

    @property
    def origin(self) -> npt.NDArray[np.float64]:
        """The position of the first voxel in millimetres (x, y, z), RAS."""
        middle = (np.array(self.voxels.shape[::-1]) - 1) / 2
        return np.asarray(np.array(self.centre) - middle * np.array(self.spacing))


def as_nifti(scan: Scan) -> bytes:
    """Return a scan as ``W, H, D`` (``W, H`` of one slice) with RAS axes, uncompressed."""
    affine = np.diag([*scan.spacing, 1.0])
    affine[:3, 3] = scan.origin
    voxels = scan.voxels[0] if len(scan.voxels) == 1 else scan.voxels
    nifti = nibabel.Nifti1Image(np.ascontiguousarray(voxels.T), affine)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = b"simulated study"
    return bytes(nifti.to_bytes())


def as_series(scan: Scan, site: str, patient: str, seed: int) -> dict[str, bytes]:
    """Return a scan as the files of a DICOM MR series, by name.

    Rows and columns are the NIfTI twin's: from the patient's left to right and from the back to the front, which the
    orientation says. So both have the same array after loading.

    Args:
        scan: of int16 voxels.
        site: where the simulated scanner stands.
        patient: the simulated patient, one study each.
        seed: of the demo.
    """
    names = (seed, site, patient)
    common = _encoded(_common(scan, names))
    stored = (scan.voxels.astype(np.int32) * 2 - 32768).astype("<i2")
    x, y, z = scan.origin
    files = {}
    for index, pixels in enumerate(stored):
        common.InstanceNumber = number = index + 1
        common.SOPInstanceUID = common.file_meta.MediaStorageSOPInstanceUID = _uid(*names, number)
        position = (-x, -y, z + index * scan.spacing[2])  # DICOM's axes point to the left and to the back
        common.ImagePositionPatient = [_decimal(value) for value in position]
        common.add_new("PixelData", "OW", pixels.tobytes())
        buffer = io.BytesIO()
        common.save_as(buffer, enforce_file_format=True)
        files[f"{number:04d}.dcm"] = buffer.getvalue()
    return files


def _encoded(dataset: Dataset) -> Dataset:
    """Return the same elements as they are in a file: written again, they need not be encoded again."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def _common(scan: Scan, names: tuple[int, str, str]) -> Dataset:
    """What all slices of a series share; required by the modules of the MR Image IOD."""
    dataset = Dataset()
    dataset.preamble = b"\0" * 128
    dataset.file_meta = meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation")
    meta.ImplementationVersionName = "FEDHELP"
    _say_who(dataset, names)
    _say_how(dataset)
    low, high = np.percentile(scan.voxels, (1, 99))
    dataset.WindowCenter, dataset.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, 1))
    dataset.PixelSpacing = [_decimal(scan.spacing[1]), _decimal(scan.spacing[0])]  # between rows, between columns
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(scan.spacing[2])
    dataset.Rows, dataset.Columns = scan.voxels.shape[1:]
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = _uid(*names)  # until a slice has its own
    return dataset


def _say_who(dataset: Dataset, names: tuple[int, str, str]) -> None:
    _, site, patient = names
    dataset.PatientID, dataset.PatientName = patient, f"SIMULATED^{patient}"
    dataset.StudyInstanceUID = _uid(*names, "study")
    dataset.SeriesInstanceUID = _uid(*names, "series")
    dataset.FrameOfReferenceUID = _uid(*names, "frame of reference")
    dataset.Modality, dataset.SeriesNumber = "MR", 1
    dataset.Manufacturer, dataset.ManufacturerModelName = "FedHelp", "simulated scanner"
    dataset.InstitutionName, dataset.StationName = site, "SIMULATED"
    dataset.StudyDescription, dataset.SeriesDescription = "simulated study", "T1 axial, simulated"
    for empty in (
        "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName", "PositionReferenceIndicator",
    ):  # fmt: skip
        setattr(dataset, empty, "")


def _say_how(dataset: Dataset) -> None:
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.PatientPosition = "HFS"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = "3D", "", "", ""
    dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]  # columns go to the right, rows to the front
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = _decimal(SLOPE), _decimal(INTERCEPT), "US"


def _uid(*names: object) -> UID:
    return generate_uid(entropy_srcs=["fedhelp-med demo", *(str(name) for name in names)])


def _decimal(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)  # at most 16 characters
