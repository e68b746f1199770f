"""Demo sites from any MedMNIST file (Yang et al., Scientific Data 2023): 2-D grey, 2-D RGB or 3-D, single label.

How the file is divided, always with the classes in proportion:

- training of the sites: disjoint parts of the file's training split;
- public set (unlabelled) and foundation model: held out of the training split, so no site has them. With a zip of
  labelled pictures, each gets one half of the zip instead, and the public set keeps its labels;
- validation: disjoint parts of the validation split;
- testing: disjoint parts of the test split if every site gets ``testing`` studies so; otherwise **every site is
  tested on the same, whole test split**, which beats a handful of studies each.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Unpack

import nibabel
import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import file_hash
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import Counts, DemoData, Study, StudySet, build_demo, plan_sites
from fedhelp_med.data.medmnist_file import MedMnistFile, read_medmnist
from fedhelp_med.data.picture_sets import picture_studies, png
from fedhelp_med.data.picture_zip import list_pictures

RECIPE = 1  # counts up when the same parameters give other bytes

COUNTS: Counts = {
    "small_sites": 4,
    "large_sites": 2,
    "small_training": 20,
    "large_training": 100,
    "small_validation": 24,
    "large_validation": 60,
    "testing": 100,
    "public": 400,
    "foundation": 1200,
}

Indices = npt.NDArray[np.int64]


def make_medmnist_sites(
    folder: Path,
    npz: Path,
    *,
    seed: int,
    public_zip: Path | None = None,
    **given: Unpack[Counts],
) -> DemoData:
    """Write the studies of a MedMNIST file as PNG (3-D: NIfTI, slices last) and the datalists of a federation.

    Args:
        folder: where; complete data with the same parameters is used again.
        npz: the MedMNIST file.
        seed: of the division.
        public_zip: a zip with one folder of JPEG or PNG pictures per class.
        **given: numbers of sites and studies other than ``COUNTS``; those of the validation splits and of the two sets
            are the most. A tenth of the foundation model's studies comes on top, for validation.

    Raises:
        InputError: a damaged or unsupported file, too few studies, or a folder that holds other data.
    """
    roles, counts = plan_sites(COUNTS, given)
    npz, public_zip = Path(npz), None if public_zip is None else Path(public_zip)
    source = read_medmnist(npz)
    if public_zip is not None and source.is_volume:
        raise InputError(f"{public_zip}: pictures cannot be the public set of the volumes in {npz}; leave it out")
    parameters = {
        "source": "medmnist",
        "recipe": RECIPE,
        "seed": seed,
        "data": file_hash(npz),
        "public_data": None if public_zip is None else file_hash(public_zip),
        "roles": roles,
        **counts,
    }
    parts = _divide(source, roles, counts, seed, held_out=public_zip is None)
    sets = _site_sets(source, roles, parts)
    extra = _zip_sets(public_zip, source, counts, seed) if public_zip else _held_out_sets(source, parts)
    return build_demo(folder, parameters, roles, chain(sets, extra))


def _divide(
    source: MedMnistFile, roles: Mapping[str, str], counts: Mapping[str, int], seed: int, *, held_out: bool
) -> dict[tuple[str, str], Indices]:
    """Indices into the file's splits by (site or set, split)."""
    order = {
        split: stratified_order(source.labels[split], np.random.default_rng(derive_seed(seed, "medmnist", split)))
        for split in ("train", "val", "test")
    }
    wanted = {kind: [counts[f"{role}_{kind}"] for role in roles.values()] for kind in ("training", "validation")}
    spare = len(order["train"]) - sum(wanted["training"])
    if spare < (4 if held_out else 0):
        raise InputError(
            f"{source.path}: train_images: {len(order['train'])} studies are too few for {sum(wanted['training'])} "
            "at the sites and the held-out public and foundation sets; lower the training studies or the sites"
        )
    share = min(1.0, len(order["val"]) / sum(wanted["validation"]))
    validation = [int(count * share) for count in wanted["validation"]]
    if min(validation) < 2:
        raise InputError(
            f"{source.path}: val_images: {len(order['val'])} studies are too few for {len(roles)} sites; "
            "choose fewer sites"
        )
    parts = _cut(order["train"], roles, "training", wanted["training"])
    parts |= _cut(order["val"], roles, "validation", validation)
    if len(order["test"]) >= counts["testing"] * len(roles):
        parts |= _cut(order["test"], roles, "testing", [counts["testing"]] * len(roles))
    else:
        parts |= {(name, "testing"): order["test"] for name in roles}
    if held_out:
        rest = order["train"][sum(wanted["training"]) :]
        public = min(counts["public"], len(rest) // 3)
        parts["public", "training"] = rest[:public]
        parts |= _foundation_parts(rest[public:], counts["foundation"])
    return parts


def _cut(
    order: Indices, roles: Mapping[str, str], split: str, lengths: Sequence[int]
) -> dict[tuple[str, str], Indices]:
    ends = np.cumsum(lengths)
    return {(name, split): order[end - length : end] for name, length, end in zip(roles, lengths, ends, strict=True)}


def _foundation_parts(rest: Indices, count: int) -> dict[tuple[str, str], Indices]:
    training = min(count, len(rest) - max(1, len(rest) // 11))
    validation = max(1, training // 10)
    return {
        ("foundation", "training"): rest[:training],
        ("foundation", "validation"): rest[training : training + validation],
    }


def stratified_order(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Indices:
    """Order items at random so that every run of them holds the classes in proportion (give or take one each)."""
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(position, kind="stable")


def _site_sets(
    source: MedMnistFile, roles: Mapping[str, str], parts: Mapping[tuple[str, str], Indices]
) -> Iterator[StudySet]:
    splits = {"training": "train", "validation": "val", "testing": "test"}
    for name in roles:
        studies = {split: _studies(source, file_split, parts[name, split]) for split, file_split in splits.items()}
        yield StudySet(f"sites/{name}", f"{source.path.stem}: {name}", source.classes, studies, source.suffix)


def _held_out_sets(source: MedMnistFile, parts: Mapping[tuple[str, str], Indices]) -> Iterator[StudySet]:
    name = source.path.stem
    public = {"training": _studies(source, "train", parts["public", "training"], labelled=False)}
    yield StudySet("public", f"{name}: public, unlabelled", None, public, source.suffix)
    studies = {split: _studies(source, "train", parts["foundation", split]) for split in ("training", "validation")}
    yield StudySet("foundation", f"{name}: foundation model", source.classes, studies, source.suffix)


def _studies(source: MedMnistFile, split: str, indices: Indices, *, labelled: bool = True) -> Iterator[Study]:
    for index in indices:
        image = source.images[split][index]
        label = int(source.labels[split][index]) if labelled else None
        yield Study(_encode(image, volume=source.is_volume), f"{split}-{index:05d}", label)


def _encode(image: npt.NDArray[np.uint8], *, volume: bool) -> bytes:
    """A PNG of ``H, W[, 3]``, or a NIfTI file ``W, H, D`` of ``D, H, W`` (spacing unknown: 1 mm)."""
    if volume:
        nifti = nibabel.Nifti1Image(np.ascontiguousarray(image.transpose(2, 1, 0)), np.eye(4))
        return bytes(nifti.to_bytes())
    return png(image)


def _zip_sets(path: Path, source: MedMnistFile, counts: Mapping[str, int], seed: int) -> list[StudySet]:
    """One half of the zip becomes the public set, the other the foundation model's, both labelled by folder."""
    classes, pictures = list_pictures(path)
    labels = np.array([picture.label for picture in pictures])
    order = stratified_order(labels, np.random.default_rng(derive_seed(seed, "medmnist", "zip")))
    if len(order) < 4:
        raise InputError(f"{path}: {len(order)} pictures are too few for two sets; give a zip with more")
    half = len(order) // 2
    parts = _foundation_parts(order[half:], counts["foundation"])
    parts["public", "training"] = order[: min(half, counts["public"])]

    def study_set(folder: str, *splits: str) -> StudySet:
        chosen = {split: [pictures[index] for index in parts[folder, split]] for split in splits}
        studies = {split: picture_studies(path, chosen[split], source.mode) for split in splits}
        return StudySet(folder, f"{path.stem}: {folder}", classes, studies, ".png")

    return [study_set("public", "training"), study_set("foundation", "training", "validation")]
