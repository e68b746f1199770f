"""Segmentation sites from a folder of blood-smear crops: nucleus and cytoplasm of white blood cells.

The layout is that of Zheng et al. 2018: ``images/NAME.png`` (colour) and ``masks/NAME.png`` (0 background, 1 cytoplasm,
2 nucleus); other files are ignored. One crop is one cell, and one study.

How the folder is divided, at random: disjoint parts for the training and the validation of every site; one testing part
**on which every site is tested**, which beats a handful of studies each; and, held apart, an unlabelled public set and
the foundation model's labelled set. With a second folder (another stain, another source) the last two are its halves.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import Counts, DemoData, Study, StudySet, build_demo, plan_sites

RECIPE = 1  # counts up when the same parameters give other bytes
CLASSES = ("background", "cytoplasm", "nucleus")
COUNTS: Counts = {
    "small_sites": 4,
    "large_sites": 2,
    "small_training": 8,
    "large_training": 40,
    "small_validation": 4,
    "large_validation": 6,
    "testing": 50,
    "public": 40,
    "foundation": 70,
}
LEAST_SHARE = 0.2  # of the wanted studies; with less a comparison says nothing

Parts = dict[tuple[str, str], list[Path]]


def make_blood_cell_sites(
    folder: Path,
    source: Path,
    *,
    seed: int,
    public_source: Path | None = None,
    **given: Unpack[Counts],
) -> DemoData:
    """Write the crops as colour PNG with a mask each, and the datalists of a federation.

    Where the folder holds fewer crops than asked for, all numbers but those of the small sites shrink alike.

    Args:
        folder: where; complete data with the same parameters is used again.
        source: the folder with ``images`` and ``masks``.
        seed: of the division.
        public_source: another such folder, for the public set and the foundation model.
        **given: numbers of sites and studies other than ``COUNTS``; those of the hospitals, the tests and the two other
            sets are the most. Every seventh of the foundation model's studies is for validation.

    Raises:
        InputError: a folder of another layout, a damaged picture or mask, too few crops, or a target folder that holds
            other data.
    """
    roles, counts = plan_sites(COUNTS, given)
    crops = list_crops(source)
    others = None if public_source is None else list_crops(public_source)
    parameters = {
        "source": "blood cells",
        "recipe": RECIPE,
        "seed": seed,
        "data": _digest(crops),
        "public_data": None if others is None else _digest(others),
        "roles": roles,
        **counts,
    }
    parts = _divide(source, crops, others, roles, counts, seed)
    return build_demo(folder, parameters, roles, _sets(source, public_source or source, roles, parts))


def list_crops(source: Path) -> list[Path]:
    """Return the pictures of a folder, each of which has a mask.

    Raises:
        InputError: the folder has no ``images``, or a picture no mask.
    """
    images = sorted((source / "images").glob("*.png"))
    if not images:
        raise InputError(f"{source}: no images/*.png in it; name a folder with images/NAME.png and masks/NAME.png")
    missing = [image.name for image in images if not _mask_of(image).is_file()]
    if missing:
        raise InputError(f"{source}: masks/{missing[0]} is missing ({len(missing)} in all); add the masks")
    return images


def _mask_of(image: Path) -> Path:
    return image.parents[1] / "masks" / image.name


def _divide(
    source: Path,
    crops: Sequence[Path],
    others: Sequence[Path] | None,
    roles: Mapping[str, str],
    counts: Mapping[str, int],
    seed: int,
) -> Parts:
    """Return the crops by (site or set, split)."""
    own = [(name, role, split) for name, role in roles.items() for split in ("training", "validation")]
    wanted = {(name, split): counts[f"{role}_{split}"] for name, role, split in own}
    wanted["all", "testing"] = counts["testing"]
    held_out = {("public", "training"): counts["public"], ("foundation", "all"): counts["foundation"]}
    parts = _deal(source, crops, wanted if others is not None else wanted | held_out, roles, seed)
    if others is not None:
        parts |= _deal(source, others, {key: min(n, len(others) // 2) for key, n in held_out.items()}, roles, seed)
    labelled = parts.pop(("foundation", "all"))
    parts["foundation", "validation"] = labelled[::7]
    parts["foundation", "training"] = [crop for index, crop in enumerate(labelled) if index % 7]
    return parts


def _deal(
    source: Path, crops: Sequence[Path], wanted: Mapping[tuple[str, str], int], roles: Mapping[str, str], seed: int
) -> Parts:
    fixed = sum(count for (name, _), count in wanted.items() if roles.get(name) == "small")
    flexible = sum(wanted.values()) - fixed
    share = min(1.0, (len(crops) - fixed) / max(flexible, 1))
    if share < LEAST_SHARE:
        raise InputError(
            f"{source}: {len(crops)} crops are too few for {sum(wanted.values())} studies; give a folder with more, a "
            "second folder for the public set, or ask for fewer sites or studies"
        )
    order = np.random.default_rng(derive_seed(seed, "blood cells")).permutation(len(crops))
    parts: Parts = {}
    begin = 0
    for (name, split), count in wanted.items():
        own = count if roles.get(name) == "small" else max(2, int(count * share))
        parts[name, split] = [crops[index] for index in order[begin : begin + own]]
        begin += own
    return parts


def _sets(source: Path, public_source: Path, roles: Mapping[str, str], parts: Parts) -> Iterator[StudySet]:
    for name in roles:
        pieces = {split: parts[name, split] for split in ("training", "validation")}
        pieces["testing"] = parts["all", "testing"]
        splits = {split: _studies(crops) for split, crops in pieces.items()}
        yield StudySet(f"sites/{name}", f"{source.name}: {name}", CLASSES, splits, ".png")
    public = {"training": _studies(parts["public", "training"], labelled=False)}
    yield StudySet("public", f"{public_source.name}: public, unlabelled", None, public, ".png")
    splits = {split: _studies(parts["foundation", split]) for split in ("training", "validation")}
    yield StudySet("foundation", f"{public_source.name}: foundation model", CLASSES, splits, ".png")


def _studies(crops: Sequence[Path], *, labelled: bool = True) -> Iterator[Study]:
    for crop in crops:
        image, mask = _read(crop, "RGB"), _read(_mask_of(crop), "L")
        if image.size != mask.size:
            raise InputError(f"{crop}: {image.size} pixels, but its mask has {mask.size}; make them the same")
        if (largest := np.asarray(mask).max()) >= len(CLASSES):
            raise InputError(f"{_mask_of(crop)}: holds the value {largest}; use 0 background, 1 cytoplasm, 2 nucleus")
        yield Study(_as_png(image), crop.stem, _as_png(mask) if labelled else None)


def _read(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); replace or remove it") from None


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _digest(crops: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in (file for crop in crops for file in (crop, _mask_of(crop))):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
