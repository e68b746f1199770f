"""Masks that lie beside their images, found by a naming pattern."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.studies import Study, stem
from fedhelp_med.data.walk import Rejected
from fedhelp_med.transforms import ImageError, image_shape, mask_fits, read_image

FIELDS = ("name", "patient", "series")
MAXIMUM_CLASSES = 256


@dataclass
class Masked:
    """Studies with the file of their mask.

    Attributes:
        studies: with the path of the mask.
        rejected: studies without a usable mask, and masks without an image.
    """

    studies: list[tuple[Study, Path]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot tell masks apart.

    Raises:
        InputError: without a known field, or with another one.
    """
    fields = re.findall(r"{([^}]*)}", pattern)
    unknown = [name for name in fields if name not in FIELDS]
    if unknown or not fields:
        raise InputError(
            f"--masks {pattern!r}: write where the mask of an image lies with {{name}}, {{patient}} or {{series}} in "
            "it, such as '{name}_mask.nii.gz' or '../masks/{name}.png'"
        )


def masks_by_pattern(pattern: str, studies: Sequence[Study], root: Path) -> Masked:
    """Find the mask of each study.

    Args:
        pattern: path of the mask from the image's folder or from the scanned one; ``{name}`` is the image's name
            without its extension (of a DICOM series: its folder's), ``{patient}`` and ``{series}`` its IDs; ``*``
            matches anything.
        studies: images and masks alike.
        root: the scanned folder.
    """
    known = {study.files[0].resolve(): study for study in studies if len(study.files) == 1}
    mask_like = {path for path in known if _looks_like_a_mask(path, pattern)}
    result = Masked()
    used: set[Path] = set()
    for study in studies:
        if len(study.files) == 1 and study.files[0].resolve() in mask_like:
            continue
        found = [path for path in _candidates(pattern, study, root, known) if path != study.files[0].resolve()]
        if len(found) == 1:
            used.add(found[0])
            result.studies.append((study, known[found[0]].files[0]))
            continue
        what = f"{len(found)} masks" if found else "no mask"
        names = ", ".join(path.name for path in found[:3]) if found else _expected(pattern, study)
        remedy = "add its mask or leave it out"
        if not found and (outside := _candidates(pattern, study, root)):
            names, remedy = str(outside[0]), "it lies outside the scanned folder: scan one that holds both"
        result.rejected += [Rejected(file, f"{what} for it ({names}); {remedy}") for file in study.files]
    for path in sorted(mask_like - used):
        result.rejected.append(Rejected(known[path].files[0], "a mask without its image; add the image"))
    return result


def read_mask(path: Path) -> npt.NDArray[np.int64]:
    """Read a mask's class indices.

    Raises:
        ImageError: unreadable, or not whole numbers.
    """
    values = read_image(path, mask=True).array
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise ImageError(path, "a mask whose values are not whole numbers; write class indices")
    return values.astype(np.int64)


def shape_fault(image: Path | Sequence[Path], mask: Path) -> str | None:
    """Say how a mask's shape differs from its image's; None when it fits.

    Raises:
        ImageError: the mask cannot be read.
    """
    shape, has_channels = image_shape(image)
    own, _ = image_shape(mask)
    if mask_fits(shape[:-1] if has_channels else shape, own) or mask_fits(shape, own):
        return None
    return f"its mask {mask.name} has the shape {tuple(own)}, the image {tuple(shape)}; make them the same"


def _looks_like_a_mask(path: Path, pattern: str) -> bool:
    """Whether a path could be some image's mask: the pattern with anything in the place of its fields."""
    tail = re.sub(r"{[^}]*}", "*", pattern).replace("\\", "/")
    while tail.startswith(("../", "./")):
        tail = tail.partition("/")[2]
    return fnmatch(path.as_posix(), f"*/{tail}")


def _candidates(pattern: str, study: Study, root: Path, known: Container[Path] | None = None) -> list[Path]:
    place = study.files[0].parent
    if len(study.files) > 1:
        place = place.parent
    relative = _expected(pattern, study)
    found: dict[Path, None] = {}
    for base in (place, root):
        target = (base / relative).parent
        name = Path(relative).name
        if not target.is_dir():
            continue
        for path in sorted(target.iterdir()):
            if fnmatch(path.name, _literal(name)) and (known is None or path.resolve() in known):
                found[path.resolve()] = None
    return list(found)


def _literal(name: str) -> str:
    """Only ``*`` is a wildcard: names may hold brackets."""
    return name.replace("[", "[[]").replace("?", "[?]")


def _expected(pattern: str, study: Study) -> str:
    name = study.files[0].parent.name if len(study.files) > 1 else stem(study.files[0])
    values = {"name": name, "patient": study.patient, "series": study.series}
    return re.sub(r"{([^}]*)}", lambda match: values[match.group(1)], pattern)


def unit_values(values: Sequence[int]) -> bool:
    """Whether masks hold 0 and 255 and nothing else: 0 and 1 as pictures write them."""
    return bool(values) and set(values) <= {0, 255} and 255 in values
