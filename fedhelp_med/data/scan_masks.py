"""Masks for a scan: checked against their images, drawn from DICOM objects, and numbered by class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhelp_med.data.labels_masks import (
    MAXIMUM_CLASSES,
    Fit,
    check_pattern,
    fit_of,
    masks_by_pattern,
    read_mask,
    unit_values,
)
from fedhelp_med.data.labels_objects import Structure, read_structures, referenced_series
from fedhelp_med.data.labels_table import class_index, distinct_names
from fedhelp_med.data.scan_files import ScanFiles
from fedhelp_med.data.studies import LabelObject, Study, stem
from fedhelp_med.data.walk import Rejected
from fedhelp_med.transforms import ImageError, read_image, turned

BACKGROUND = "background"


@dataclass
class MaskedStudies:
    """Studies with the file of a mask that fits.

    Attributes:
        studies: with the path of the mask.
        classes: names by index; background first.
        rejected: what was left out.
        notes: what a person should know.
    """

    studies: list[tuple[Study, Path]] = field(default_factory=list)
    classes: tuple[str, ...] = (BACKGROUND,)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def masks_from_pattern(
    pattern: str, studies: Sequence[Study], root: Path, declared: tuple[str, ...] | None, files: ScanFiles
) -> MaskedStudies:
    """Find masks by their names, and read which classes they hold.

    Masks that hold 0 and 255 alone are written again as 0 and 1, and masks whose axes run in another order or the other
    way than their images' are written again on the grid of the image.

    Raises:
        InputError: a pattern that finds nothing in principle.
    """
    check_pattern(pattern)
    matched = masks_by_pattern(pattern, studies, root)
    result = MaskedStudies(rejected=matched.rejected)
    values: dict[Path, list[int]] = {}
    kept: list[tuple[Study, Path, Fit]] = []
    for study, mask in matched.studies:
        try:
            fit = fit_of(study.files, mask)
            fault = fit.fault
            if fault is None:
                values[mask] = [int(value) for value in np.unique(read_mask(mask))]
        except ImageError as error:
            fault = f"its mask {mask.name}: {error.reason}"
        if fault:
            result.rejected += [Rejected(path, fault) for path in (*study.files, mask)]
        else:
            kept.append((study, mask, fit))
    unit = unit_values(sorted({value for _, mask, _ in kept for value in values[mask]}))
    limit = len(declared) if declared else MAXIMUM_CLASSES
    highest = turns = 0
    for study, mask, fit in kept:
        if unit and {1, 255} <= set(values[mask]):
            reason = f"its mask {mask.name} holds 1 and 255, other masks 0 and 1 or 0 and 255; write class indices"
            result.rejected += [Rejected(path, reason) for path in (*study.files, mask)]
            continue
        own = [int(value > 0) for value in values[mask]] if unit else values[mask]
        if min(own) < 0 or max(own) >= limit:
            allowed = f"0 to {limit - 1}"
            reason = f"its mask {mask.name} holds {min(own)} to {max(own)}; write class indices {allowed}"
            result.rejected += [Rejected(path, reason) for path in (*study.files, mask)]
            continue
        highest = max(highest, *own)
        turns += fit.turn is not None
        again = fit.turn is not None or (unit and 255 in values[mask])
        result.studies.append((study, _again(mask, study, fit, unit, root, files) if again else mask))
    result.classes = declared or (BACKGROUND, *(f"class {index}" for index in range(1, max(highest, 1) + 1)))
    if unit:
        result.notes.append("masks of 0 and 255 were written again as 0 and 1")
    if turns:
        result.notes.append(f"{turns} mask(s) whose axes run otherwise than their images' were turned and rewritten")
    return result


def masks_from_objects(
    labels: Sequence[LabelObject], studies: Sequence[Study], declared: tuple[str, ...] | None, files: ScanFiles
) -> MaskedStudies:
    """Draw DICOM SEG and RTSTRUCT objects into the grids of the series that they refer to.

    Where regions overlap, the one of the later class counts.

    Raises:
        InputError: there are contours, and the extra ``dicom`` is not installed.
    """
    result = MaskedStudies()
    by_series = {study.series: study for study in studies if study.kind == "dicom" and study.series}
    found: dict[str, list[Structure]] = {}
    for label in labels:
        try:
            series = referenced_series(label)
            study = by_series.get(series)
            if study is None:
                raise ImageError(label.path, f"labels the series {series or '(not named)'}, which is not here; add it")
            image = read_image(study.files)
            space = image.array.shape[:-1] if image.channels else image.array.shape
            found.setdefault(series, []).extend(read_structures(label, space, image.affine))
        except ImageError as error:
            result.rejected.append(Rejected(label.path, error.reason))
    names = distinct_names([item.name for items in found.values() for item in items])
    result.classes = declared or (BACKGROUND, *(name for name in names if name.casefold() != BACKGROUND))
    left_out = sorted(name for name in names if class_index(name, result.classes) is None)
    if left_out:
        result.notes.append(f"regions left out, which are none of the classes: {', '.join(left_out)}")
    overlaps: dict[tuple[int, int], list[int]] = {}
    for study in studies:
        items = found.get(study.series, []) if study.kind == "dicom" else []
        if not items:
            reason = "no usable DICOM SEG or RTSTRUCT refers to it; add one, or leave the image out"
            result.rejected += [Rejected(path, reason) for path in study.files]
            continue
        affine = read_image(study.files).affine
        values = _paint(items, result.classes, overlaps)
        origin = f"{study.series} {study.description}"
        result.studies.append((study, files.mask(f"{study.patient}-{study.series}", origin, values, affine)))
    for (lower, upper), counts in sorted(overlaps.items()):
        under, over = result.classes[lower], result.classes[upper]
        result.notes.append(
            f"{over} lies over {under} in {len(counts)} image(s), {sum(counts)} voxel(s): the later class counts; "
            "give --classes with what lies inside after what holds it"
        )
    return result


def _paint(
    structures: Sequence[Structure], classes: Sequence[str], overlaps: dict[tuple[int, int], list[int]]
) -> npt.NDArray[np.int64]:
    """Draw the regions of one image in the order of their classes, whatever that of the file.

    Args:
        structures: the regions.
        classes: names by index.
        overlaps: the voxels in which one class covers an earlier one are added, a number an image.
    """
    values = np.zeros(structures[0].shape, np.int64)
    found = [(class_index(item.name, classes), item) for item in structures]
    for index, item in sorted(((index, item) for index, item in found if index), key=lambda pair: pair[0]):
        mask = item.mask
        for lower, count in zip(*np.unique(values[mask], return_counts=True), strict=True):
            if lower not in (0, index):
                overlaps.setdefault((int(lower), index), []).append(int(count))
        values[mask] = index
    return values


def _again(mask: Path, study: Study, fit: Fit, unit: bool, root: Path, files: ScanFiles) -> Path:
    """Write a mask on its image's grid, and 0 and 255 as 0 and 1."""
    values, affine = read_mask(mask), read_image(mask, mask=True).affine
    if unit:
        values = (values > 0).astype(np.int64)
    origin = _below(mask, root)
    if fit.turn is not None and fit.image.affine is not None:
        values, affine = turned(values, fit.turn).reshape(fit.image.space), fit.image.affine
        origin += f" on {_below(study.files[0], root)}"  # a mask of two images may be turned in two ways
    return files.mask(f"{mask.parent.name}-{stem(mask)}", origin, values, affine)


def _below(path: Path, root: Path) -> str:
    """A path from the scanned folder: the same wherever the disk is mounted."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
