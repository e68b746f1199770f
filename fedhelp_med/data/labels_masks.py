"""Masks that lie beside their images, found by a naming pattern."""

import re
from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.studies import Study, stem
from fedhelp_med.data.walk import Rejected
from fedhelp_med.transforms import (
    APART,
    ImageError,
    Layout,
    Turn,
    corner_distance,
    image_layout,
    mask_fits,
    place_fault,
    read_image,
    turn_between,
)

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
    folders: dict[Path, list[tuple[str, Path]]] = {}
    for study in studies:
        if len(study.files) == 1 and study.files[0].resolve() in mask_like:
            continue
        found = [path for path in _candidates(pattern, study, root, folders, known) if path != study.files[0].resolve()]
        if len(found) == 1:
            used.add(found[0])
            result.studies.append((study, known[found[0]].files[0]))
            continue
        what = f"{len(found)} masks" if found else "no mask"
        names = ", ".join(path.name for path in found[:3]) if found else _expected(pattern, study)
        remedy = "add its mask or leave it out"
        if not found and (outside := _candidates(pattern, study, root, folders)):
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


@dataclass(frozen=True)
class Fit:
    """How a mask fits its image, by their headers.

    Attributes:
        image: what the image's header says.
        fault: what does not fit; None when it does.
        turn: how the mask's axes have to be exchanged or flipped; None where they are the image's.
    """

    image: Layout
    fault: str | None = None
    turn: Turn | None = None


def fit_of(image: Path | Sequence[Path], mask: Path) -> Fit:
    """Compare a mask's shape and place with its image's.

    Raises:
        ImageError: one of them cannot be read.
    """
    wanted, own = image_layout(image), image_layout(mask, mask=True)
    fits = mask_fits(wanted.shape, own.shape, wanted.channels)
    distance = corner_distance(wanted.space, wanted.affine, own.affine)
    if fits and distance <= APART:
        return Fit(wanted)
    if wanted.affine is not None and own.affine is not None:
        turn = turn_between(own.space, own.affine, wanted.space, wanted.affine)
        if turn is not None and not turn.is_none:
            return Fit(wanted, turn=turn)
    if fits:
        return Fit(wanted, f"its mask {mask.name} {place_fault(distance)}")
    shapes = f"has the shape {tuple(own.shape)}, the image {tuple(wanted.shape)}"
    colours = " (the last axis is of colour)" if own.channels else ""
    return Fit(wanted, f"its mask {mask.name} {shapes}{colours}; make them the same, without colours")


def _looks_like_a_mask(path: Path, pattern: str) -> bool:
    """Whether a path could be some image's mask: the pattern with anything in the place of its fields."""
    tail = re.sub(r"{[^}]*}", "*", pattern).replace("\\", "/")
    while tail.startswith(("../", "./")):
        tail = tail.partition("/")[2]
    return fnmatch(path.as_posix(), f"*/{tail}")


def _candidates(
    pattern: str,
    study: Study,
    root: Path,
    folders: dict[Path, list[tuple[str, Path]]],
    known: Container[Path] | None = None,
) -> list[Path]:
    """The files that a study's pattern matches, among ``known`` ones; ``folders`` keeps what was listed."""
    place = study.files[0].parent
    if len(study.files) > 1:
        place = place.parent
    relative = _expected(pattern, study)
    found: dict[Path, None] = {}
    for base in (place, root):
        target = (base / relative).parent
        name = Path(relative).name
        if target not in folders:
            folders[target] = _entries(target)
        entries = folders[target]
        begin = name.partition("*")[0]
        for index in range(bisect_left(entries, (begin,)), len(entries)):
            own, path = entries[index]
            if not own.startswith(begin):
                break  # sorted: the folder is not gone through for every image
            if fnmatch(own, _literal(name)) and (known is None or path in known):
                found[path] = None
    return list(found)


def _entries(folder: Path) -> list[tuple[str, Path]]:
    """Names in a folder, sorted, and where they lead; nothing for what is no folder."""
    return sorted((path.name, path.resolve()) for path in folder.iterdir()) if folder.is_dir() else []


def _literal(name: str) -> str:
    """Only ``*`` is a wildcard: names may hold brackets."""
    return name.replace("[", "[[]").replace("?", "[?]")


def _expected(pattern: str, study: Study) -> str:
    name = study.files[0].parent.name if len(study.files) > 1 else stem(study.files[0])
    values = {"name": name, "patient": study.patient, "series": study.series}
    return re.sub(r"{([^}]*)}", lambda match: values[match.group(1)], pattern)


def unit_values(values: Sequence[int]) -> bool:
    """Whether masks hold 0 and 255, some also 0 and 1, and nothing else: 0 and 1 as pictures write them."""
    return set(values) <= {0, 1, 255} and 255 in values
