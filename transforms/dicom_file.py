"""The header of a DICOM file, and whether its pixel data are all there, without decoding them."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from fedhelp_med.transforms.errors import ImageError, NotAnImageError, reader_reason

HEADER = [Tag(keyword) for keyword in (
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "StudyDescription", "SeriesDescription", "SeriesNumber", "InstanceNumber", "ImageType", "FrameOfReferenceUID",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "AcquisitionNumber", "EchoNumbers", "EchoTime",
    "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "InversionTime", "AcquisitionTime",
    "DimensionIndexSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "LossyImageCompression", "BurnedInAnnotation",
)]  # fmt: skip
"""What is read of a header: enough for values, geometry and grouping; the rest is skipped, which halves the time."""

GROUPING = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SeriesDescription", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence", *(
        "EchoNumbers", "EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier", "DiffusionBValue",
        "InversionTime", "TriggerTime", "ImageType", "AcquisitionTime",
    ),
)  # fmt: skip
"""What files are grouped by."""

PIXELS = {
    0x7FE00010: "PixelData",
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
}
UNDEFINED = 0xFFFFFFFF
NO_IMAGE = {
    "SEG": "a DICOM segmentation: a label, not an image",
    "RTSTRUCT": "a DICOM RT structure set: a label, not an image",
    "RTDOSE": "a DICOM dose grid, not an image to train on",
    "RTPLAN": "a DICOM radiotherapy plan, not an image",
    "RTRECORD": "a DICOM treatment record, not an image",
    "SR": "a DICOM structured report, not an image",
    "PR": "a DICOM presentation state, not an image",
    "KO": "a DICOM key-object selection, not an image",
    "DOC": "an encapsulated document, not an image",
    "ECG": "a DICOM waveform, not an image",
    "REG": "a DICOM registration, not an image",
    "RWV": "a DICOM real-world value mapping, not an image",
    "PLAN": "a DICOM plan, not an image",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A DICOM image file whose header was read.

    Attributes:
        path: the file.
        header: the elements named in ``HEADER``, as far as the file has them.
        offset: where the value of the pixel data begins, in bytes; None in a deflated file.
    """

    path: Path
    header: Any
    offset: int | None

    @property
    def syntax(self) -> str:
        """The transfer syntax UID."""
        return str(self.header.file_meta.TransferSyntaxUID)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return max(1, _whole(self.header, "NumberOfFrames", 1))

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.header.Columns), int(self.header.Rows)

    @property
    def samples(self) -> int:
        """Samples per pixel as stored: 3 for colour."""
        return _whole(self.header, "SamplesPerPixel", 1)

    def text(self, keyword: str) -> str:
        """Return an element as text, empty when it is missing."""
        return str(self.header.get(keyword, "") or "").strip()


def is_secondary_capture(sop_class: str) -> bool:
    """Whether a SOP Class UID is one of the secondary captures."""
    return sop_class == SECONDARY_CAPTURE or sop_class.startswith(f"{SECONDARY_CAPTURE}.")


def is_screen_capture(file: DicomFile) -> bool:
    """Whether a file of a scanner shows a screen, often with a name on it: a dose report, a protocol.

    Secondary captures of other modalities (photographs, ultrasound) are images.
    """
    return is_secondary_capture(file.text("SOPClassUID")) and file.text("Modality") in ("CT", "MR", "PT")


def read_dicom_file(path: Path) -> DicomFile:
    """Read the header of a DICOM image and check that its pixel data are complete.

    Raises:
        ImageError: no DICOM, no image, contradictory, or cut off.
    """
    header, start = _read_header(path)
    with readable(path):
        modality = str(header.get("Modality", ""))
        if modality in NO_IMAGE:
            raise NotAnImageError(path, NO_IMAGE[modality])
        if str(header.file_meta.get("MediaStorageSOPClassUID", "")) == MEDIA_DIRECTORY:
            raise NotAnImageError(path, "the directory of a DICOM medium: an index, not an image")
        if start is None:
            raise ImageError(path, "holds no pixel data: not an image, or cut off in the header")
        _check_header(path, header)
        for keyword in GROUPING:  # pydicom converts a value when it is asked for, and may fail then
            header.get(keyword)
        offset, declared, available = start
        file = DicomFile(path, header, offset)
        _check_length(file, declared, available)
    return file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into an ImageError.

    Raises:
        ImageError: instead of any other error.
    """
    try:
        with quiet():
            yield
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(path, f"cannot be opened ({error.strerror or reader_reason(error)}); check it") from None
    except Exception as error:
        raise ImageError(path, f"cannot be read as DICOM ({reader_reason(error)}); export it again") from None


def read_header(path: Path) -> Any:
    """Return the elements of ``HEADER`` that a DICOM file has, whatever it is.

    Raises:
        ImageError: it cannot be read as DICOM.
    """
    return _read_header(path)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings of the readers: what matters is said in an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_dataset(path: Path) -> Any:
    """Read a whole DICOM file.

    Raises:
        ImageError: it cannot be read.
    """
    with readable(path):
        dataset = pydicom.dcmread(path, force=True)
        _complete_meta(dataset)
        return dataset


def _read_header(path: Path) -> tuple[Any, tuple[int | None, int, int] | None]:
    """Return the header, and offset, declared length and available bytes of the pixel data where there are any."""
    with readable(path), path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=HEADER)
        _complete_meta(header)
        deflated = header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
        return header, _deflated(path) if deflated else _pixel_start(file, header)


def _complete_meta(dataset: Any) -> None:
    """Files without a meta header say in their first bytes how they are written; pydicom has found it out."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _deflated(path: Path) -> tuple[int | None, int, int] | None:
    dataset = pydicom.dcmread(path, force=True)
    length = len(dataset.PixelData) if "PixelData" in dataset else None
    return None if length is None else (None, length, length)


def _pixel_start(file: BinaryIO, header: Any) -> tuple[int, int, int] | None:
    """Read tag and length at the place where pydicom stopped."""
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    begin = file.read(12)
    if len(begin) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", begin[:4])
    if (group << 16) + element not in PIXELS:
        return None
    if implicit or not begin[4:6].isalpha():  # some writers leave out the VR of this one element
        length, used = struct.unpack(f"{order}I", begin[4:8])[0], 8
    elif len(begin) < 12:
        return None
    else:
        length, used = struct.unpack(f"{order}I", begin[8:12])[0], 12
    offset = file.tell() - len(begin) + used
    return offset, length, os.fstat(file.fileno()).st_size - offset


def _check_header(path: Path, header: Any) -> None:
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        value = header.get(keyword)
        if not isinstance(value, int) or value < 1:
            raise ImageError(path, f"{keyword} is {'missing' if value is None else value}; export the file again")
    if "MOSAIC" in (header.get("ImageType") or []):
        raise ImageError(path, "a Siemens mosaic: the slices of a volume as tiles of one picture; convert it to NIfTI")
    samples = _whole(header, "SamplesPerPixel", 1)
    if samples not in (1, 3, 4):
        raise ImageError(path, f"SamplesPerPixel is {samples}: neither grey nor colour")


def _check_length(file: DicomFile, declared: int, available: int) -> None:
    """Compare what the header promises with what is declared and what the file holds."""
    encapsulated = pydicom.uid.UID(file.syntax).is_encapsulated
    if file.syntax.startswith("1.2.840.10008.1.2.4.10"):
        raise ImageError(file.path, "a video (MPEG), which is not read; export single frames")
    if encapsulated:
        _walk_fragments(file, available if declared == UNDEFINED else min(declared, available))
        return
    bits = file.size[0] * file.size[1] * file.samples * file.frames * int(file.header.BitsAllocated)
    if file.text("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    expected = (bits + 7) // 8
    shape = f"{file.frames} x {file.size[1]} x {file.size[0]} pixels of {file.header.BitsAllocated} bits"
    if declared != UNDEFINED and declared < expected:
        raise ImageError(file.path, f"{declared} bytes of pixel data, but {shape} need {expected}; export it again")
    if declared != UNDEFINED and declared > expected + max(expected // file.size[1] // file.frames, 2):
        raise ImageError(file.path, f"{declared} bytes of pixel data, but {shape} are {expected}: contradictory header")
    if available < expected:
        raise ImageError(file.path, f"cut off: {available} bytes of pixel data, {shape} need {expected}; copy it again")


def _walk_fragments(file: DicomFile, available: int) -> None:
    """Step over the fragments of compressed pixel data; each says how long it is (PS3.5, annex A.4)."""
    if file.offset is None:
        return
    with file.path.open("rb") as stream:
        stream.seek(file.offset)
        position, count = 0, 0
        while position + 8 <= available:
            group, element, length = struct.unpack("<HHI", stream.read(8))
            if (group, element) == (0xFFFE, 0xE0DD):
                break
            if (group, element) != (0xFFFE, 0xE000):
                raise ImageError(file.path, "its compressed pixel data are damaged; copy it again")
            position += 8 + length
            if position > available:
                raise ImageError(file.path, "cut off in its compressed pixel data; copy it again")
            stream.seek(length, os.SEEK_CUR)
            count += 1
    if count < 2:  # the first item is the offset table
        raise ImageError(file.path, "cut off before its compressed pixel data; copy it again")


def _whole(header: Any, keyword: str, default: int) -> int:
    try:
        return int(header.get(keyword, default) or default)
    except (TypeError, ValueError):
        return default
