"""``fedhelp data check``: read everything as training will, and say what is there and what is wrong."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import SPLITS, read_datalist
from fedhelp_med.data.labels_masks import read_mask
from fedhelp_med.transforms import (
    APART,
    ImageError,
    corner_distance,
    image_layout,
    known_place,
    mask_fits,
    place_fault,
    read_image,
)
from fedhelp_med.transforms.dicom_series import ImageData
from fedhelp_med.transforms.errors import reader_reason

ERROR, WARNING = "error", "warning"

Viewer = Callable[["ImageFacts", npt.NDArray[Any], npt.NDArray[np.int64] | None], None]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        level: ``error``: training would be unsound; ``warning``: look at it.
        site: its name.
        kind: a word for all of its kind.
        path: the file, or the split.
        reason: what, and what to do.
    """

    level: str
    site: str
    kind: str
    path: str
    reason: str


@dataclass
class ImageFacts:
    """What was found in one image.

    Attributes:
        site: name of the site.
        split: of the datalist.
        path: the file or the folder.
        patient: as the datalist has it, or empty.
        label: class index, the path of a mask, or None.
        shape: of the array, ``W, H[, D][, C]``.
        spacing: mm, of the spatial axes.
        orientation: of the axes, such as ``LPS``; empty where the file does not say where it lies.
        range: smallest and largest value.
        tilt: of the gantry, degrees.
        digest: of the pixels.
        mask_values: class indices in the mask.
        channels: how many the last axis has; 0 where it is not known to be of channels.
    """

    site: str
    split: str
    path: str
    patient: str = ""
    label: int | str | None = None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    range: tuple[float, float] = (0.0, 0.0)
    tilt: float = 0.0
    digest: str = ""
    mask_values: tuple[int, ...] | None = None
    channels: int = 0


@dataclass
class SiteCheck:
    """What was found in one datalist.

    Attributes:
        name: of the site.
        datalist: the file.
        classes: names by index, or None.
        images: what could be read.
        problems: of single files.
        public: whether it declares that its images may leave the site.
        spatial_dims: of the network that will see the images, 2 or 3; None where that is not known.
    """

    name: str
    datalist: Path
    classes: tuple[str, ...] | None
    images: list[ImageFacts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    public: bool = False
    spatial_dims: int | None = None


def check_site(
    path: Path, name: str | None = None, viewer: Viewer | None = None, spatial_dims: int | None = None
) -> SiteCheck:
    """Read every image and mask of a datalist.

    Args:
        path: the datalist.
        name: of the site; by default the datalist's.
        viewer: is shown every image with its facts and its mask.
        spatial_dims: of the network that will see the images; None where that is not known.
    """
    problem, own_name, classes, splits, public = _read(path)
    site = SiteCheck(name or own_name, path, classes, public=public, spatial_dims=spatial_dims)
    if problem is not None:
        site.problems.append(Problem(ERROR, site.name, "datalist", str(path), problem))
    for split, items in splits.items():
        for item in items:
            _check_item(site, split, item, viewer)
    _look_for_loose_masks(site)
    return site


def as_json(sites: Sequence[SiteCheck], problems: Sequence[Problem]) -> dict[str, Any]:
    """Return everything as JSON has it."""
    return {
        "sound": not any(problem.level == ERROR for problem in problems),
        "sites": [
            {
                "name": site.name,
                "datalist": str(site.datalist),
                "classes": site.classes,
                "images": [asdict(image) for image in site.images],
            }
            for site in sites
        ],
        "problems": [asdict(problem) for problem in problems],
    }


def _read(
    path: Path,
) -> tuple[str | None, str, tuple[str, ...] | None, Mapping[str, Sequence[Mapping[str, Any]]], bool]:
    """Read a datalist; one that is wrong is read as far as it can be, beside what is wrong."""
    try:
        datalist = read_datalist(path, require=())
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return reason, path.absolute().parent.name, None, dict(_lenient(path)), False
    return None, datalist.name, datalist.classes, datalist.splits, datalist.public


def _lenient(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    for split in SPLITS if isinstance(content, dict) else ():
        items = content.get(split)
        if isinstance(items, list):
            yield split, [_absolute(path, item) for item in items if isinstance(item, dict)]


def _absolute(path: Path, item: dict[str, Any]) -> dict[str, Any]:
    return {
        key: str(path.absolute().parent / value) if key in ("image", "label") and isinstance(value, str) else value
        for key, value in item.items()
    }


def _check_item(site: SiteCheck, split: str, item: Mapping[str, Any], viewer: Viewer | None) -> None:
    path, label = item.get("image"), item.get("label")
    if not isinstance(path, str):
        _add(site, "no image", f"{split}: {label}", "a label without an image; name its image or remove the item")
        return
    facts = ImageFacts(site.name, split, path, str(item.get("patient", "")), label if _is_label(label) else None)
    try:
        data = read_image(path)
    except ImageError as error:
        _add(site, "unreadable", path, error.reason)
        return
    except Exception as error:  # a library fell over damage that nobody foresaw
        _add(site, "unreadable", path, f"cannot be read ({reader_reason(error)}); export it again")
        return
    values = np.asarray(data.array)
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        _add(site, "not finite", path, f"{wrong} of {values.size} values are NaN or infinite; repair or remove it")
        return
    _describe(facts, data, values)
    if facts.range[0] == facts.range[1]:
        _add(site, "constant", path, f"every value is {facts.range[0]:g}: an empty image? Look at it", WARNING)
    if facts.tilt:
        reason = f"gantry tilt of {facts.tilt:.1f} degrees: its slices are shifted; the affine says so, resample first"
        _add(site, "tilt", path, reason, WARNING)
    mask = _check_label(site, facts, data)
    site.images.append(facts)
    if viewer is not None:
        viewer(facts, values, mask)


def _describe(facts: ImageFacts, data: ImageData, values: npt.NDArray[Any]) -> None:
    axes = values.ndim - data.channels
    facts.shape = tuple(int(length) for length in values.shape)
    facts.channels = facts.shape[-1] if data.channels else 0
    facts.spacing = tuple(float(length) for length in np.linalg.norm(data.affine[:3, : min(3, axes)], axis=0).round(4))
    facts.range = float(values.min()), float(values.max())
    facts.tilt = float(data.notes.get("gantry_tilt", 0.0))
    if data.notes.get("located", True) and not np.array_equal(data.affine, np.eye(4)):
        facts.orientation = "".join(nibabel.aff2axcodes(data.affine))[: min(3, axes)]
    content = hashlib.sha256(str(facts.shape).encode())
    content.update(np.ascontiguousarray(values, dtype="<f4").data)
    facts.digest = content.hexdigest()


def _check_label(site: SiteCheck, facts: ImageFacts, data: ImageData) -> npt.NDArray[np.int64] | None:
    if isinstance(facts.label, int):
        if site.classes is not None and not 0 <= facts.label < len(site.classes):
            reason = f"label {facts.label} is none of the classes 0 to {len(site.classes) - 1}; correct it"
            _add(site, "label", facts.path, reason)
        return None
    if facts.label is None:
        return None
    path = Path(facts.label)
    try:
        mask = read_mask(path)
        place = image_layout(path, mask=True).affine
    except ImageError as error:
        _add(site, "mask unreadable", str(path), error.reason)
        return None
    facts.mask_values = tuple(int(value) for value in np.unique(mask))
    space = facts.shape[:-1] if data.channels else facts.shape
    if not mask_fits(facts.shape, mask.shape, data.channels):
        _add(site, "mask shape", str(path), f"its shape is {mask.shape}, its image's {facts.shape}; make them the same")
        return None
    distance = corner_distance(space, known_place(data.affine) if facts.orientation else None, place)
    if distance > APART:
        _add(site, "mask place", str(path), place_fault(distance))
    limit = None if site.classes is None else len(site.classes)
    if facts.mask_values[0] < 0 or (limit is not None and facts.mask_values[-1] >= limit):
        shown = ", ".join(map(str, facts.mask_values[:6]))
        allowed = "0 or more" if limit is None else f"0 to {limit - 1}"
        _add(site, "mask values", str(path), f"it holds {shown}; class indices are {allowed}: correct it")
    elif facts.mask_values == (0,):
        _add(site, "empty mask", str(path), "nothing is marked in it; right if the image shows nothing", WARNING)
    return mask


def _look_for_loose_masks(site: SiteCheck) -> None:
    """Masks beside the masks in use that no item names: their images were lost on the way."""
    used = {Path(image.label).resolve() for image in site.images if isinstance(image.label, str)}
    images = {Path(image.path).resolve() for image in site.images}
    for folder in sorted({path.parent for path in used}):
        if folder in {path.parent for path in images} or not folder.is_dir():
            continue  # images and masks lie together: a file there need not be a mask
        loose = [path for path in sorted(folder.iterdir()) if path.is_file() and path.resolve() not in used]
        for path in loose:
            _add(site, "loose mask", str(path), "a mask that no image of the datalist uses; add its image", WARNING)


def _is_label(label: object) -> bool:
    return isinstance(label, int | str) and not isinstance(label, bool)


def _add(site: SiteCheck, kind: str, path: str, reason: str, level: str = ERROR) -> None:
    site.problems.append(Problem(level, site.name, kind, path, reason))
