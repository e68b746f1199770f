"""Masks as DICOM Segmentation objects (SEG, PS3.3 A.51) that refer to the images that they were made from."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from fedhelp_med import __version__
from fedhelp_med.common.errors import FedHelpError, first_line
from fedhelp_med.common.files import replacing
from fedhelp_med.transforms.dicom_series import open_dicom

CATEGORY = Code("123037004", "SCT", "Body structure")
SCHEME = "99FEDHELP"
"""A private coding scheme: what the classes of a datalist mean is known by their names alone."""
SERIES_NUMBER = 900
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write_segmentation(
    path: Path, files: Sequence[Path], mask: npt.NDArray[Any], classes: Sequence[str], algorithm: str
) -> None:
    """Write a mask as a DICOM SEG, a segment for each class but the background.

    Args:
        path: the file to write.
        files: of the image.
        mask: class indices ``W, H[, D]`` at the positions of the image as ``LoadStudy`` gives it.
        classes: names by index, the background first.
        algorithm: what made the mask.

    Raises:
        FedHelpError: highdicom is not installed, or the image lacks what a SEG must say.
    """
    try:
        import highdicom
    except ImportError:
        raise FedHelpError(
            "no DICOM SEG: highdicom is not installed; install the extra `predict`: pip install 'fedhelp-med[predict]'"
        ) from None
    sources, frames = _in_source_order(files, mask)
    first = sources[0]
    maker = highdicom.AlgorithmIdentificationSequence(
        name="FedHelp", version=__version__, family=Code("123109", "DCM", "Artificial Intelligence")
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label[:64],
            segmented_property_category=CATEGORY,
            segmented_property_type=Code(str(number), SCHEME, label[:64]),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=maker,
            tracking_uid=_uid(first, mask, algorithm, number),
            tracking_id=f"{label[:48]} {number}",
        )
        for number, label in enumerate(classes[1:], start=1)
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty mask is a result too
            dataset = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=_uid(first, mask, algorithm, "series"),
                series_number=SERIES_NUMBER,
                sop_instance_uid=_uid(first, mask, algorithm, "instance"),
                instance_number=1,
                manufacturer="FedHelp",
                manufacturer_model_name="fedhelp predict",
                software_versions=__version__,
                device_serial_number="0",
                content_label="FEDHELP",
                content_description="prediction, not reviewed",
                series_description="FedHelp prediction",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise FedHelpError(
            f"no DICOM SEG: the image does not allow one ({reason}); the NIfTI file has the mask"
        ) from None
    with replacing(path) as temporary:
        dataset.save_as(temporary)


def _in_source_order(files: Sequence[Path], mask: npt.NDArray[Any]) -> tuple[list[Any], npt.NDArray[np.uint8]]:
    """Return the source images in the order of their places, and the mask's frames ``D, H, W`` in the same order.

    The frames of a multi-frame image keep its own order, which need not be that of their places.
    """
    image = open_dicom(files if len(files) > 1 else files[0])
    if len(image.passes) > 1:
        raise FedHelpError("no DICOM SEG: the image has several volumes; the NIfTI file has the mask")
    order = image.passes[0].order
    volume = np.ascontiguousarray((mask if mask.ndim == 3 else mask[..., None]).transpose(2, 1, 0), dtype=np.uint8)
    if len(image.files) > 1:
        return [_readable(image.files[frame.file].path) for frame in order], volume
    frames = np.empty_like(volume)
    for level, frame in enumerate(order):
        frames[frame.index] = volume[level]
    return [_readable(image.files[0].path)], frames


def _readable(path: Path) -> Any:
    """Read a file; elements that may be empty, and that de-identification often takes away, are there."""
    dataset = dcmread(path)
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _uid(first: Any, mask: npt.NDArray[Any], algorithm: str, part: object) -> str:
    """The same image, mask and algorithm give the same object: a repeated prediction is no second one."""
    content = hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest()
    names = [str(first.get("SeriesInstanceUID", "")), str(first.get("SOPInstanceUID", "")), content, algorithm]
    return str(generate_uid(entropy_srcs=["fedhelp-med SEG", *names, str(part)]))
