"""What ``fedhelp demo`` can show: sites, and how to train on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import (
    DemoData,
    make_blood_cell_sites,
    make_icbm_sites,
    make_medmnist_sites,
    make_tissue_sites,
)
from fedhelp_med.foundation import InputSpec

Task = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class Example:
    """Demo data and the federation that suits them.

    Attributes:
        data: the sites, the public set and the foundation model's set.
        what: the images, in words.
        title: of the federation.
        bundle: that the sites execute.
        rounds: of the federation.
        local_epochs: of each round.
        overrides: of the bundle's constants.
        stand_in_batch: images per step of the stand-in foundation model.
        stand_in_input: the image that it takes; None: as the first one is.
    """

    data: DemoData
    what: str
    title: str
    bundle: str
    rounds: int
    local_epochs: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)
    stand_in_batch: int = 16
    stand_in_input: InputSpec | None = None


def make_example(task: Task, folder: Path, data: Path | None, public: Path | None, seed: int) -> Example:
    """Make the data of a demo in ``folder``.

    Args:
        task: what is learned.
        folder: where the data go.
        data: the user's own: a MedMNIST file for classification, a folder of blood-cell crops for segmentation.
        public: a zip of pictures in one folder per class; with ``data`` of blood cells a second such folder.
        seed: of everything.

    Raises:
        InputError: when ``data`` or ``public`` is not of that kind.
    """
    _check_kind(task, data, public)
    if task == "classification":
        return _lesions(folder, public, seed) if data is None else _medmnist(folder, data, public, seed)
    return _tissue(folder, public, seed) if data is None else _blood_cells(folder, data, public, seed)


def _check_kind(task: Task, data: Path | None, public: Path | None) -> None:
    crops = "a folder with images/ and masks/"
    if data is not None and data.is_dir() != (task == "segmentation"):
        wanted = "a MedMNIST .npz file" if task == "classification" else crops
        raise InputError(f"--data {data}: for --task {task} name {wanted}")
    of_crops = task == "segmentation" and data is not None
    if public is not None and public.is_dir() != of_crops:
        wanted = crops if of_crops else "a zip with one folder of pictures per class"
        raise InputError(f"--public {public}: beside {data or 'the template'} name {wanted}")


def _lesions(folder: Path, public: Path | None, seed: int) -> Example:
    return Example(
        make_icbm_sites(folder, seed=seed, public_zip=public),
        what="simulated lesions on the ICBM 2009 brain template",
        title="demo (simulated lesions)",
        bundle="fedhelp_classification",
        rounds=10,
    )


def _medmnist(folder: Path, data: Path, public: Path | None, seed: int) -> Example:
    return Example(
        make_medmnist_sites(folder, data, seed=seed, public_zip=public),
        what=f"images of {data.name}",
        title=f"demo ({data.stem})",
        bundle="fedhelp_classification",
        rounds=10,
    )


def _tissue(folder: Path, public: Path | None, seed: int) -> Example:
    return Example(
        make_tissue_sites(folder, seed=seed, public_zip=public),
        what="brain tissue on slices of the ICBM 2009 template",
        title="demo (brain tissue)",
        bundle="fedhelp_segmentation",
        rounds=10,
        local_epochs=2,
        stand_in_batch=4,
    )


def _blood_cells(folder: Path, data: Path, public: Path | None, seed: int) -> Example:
    size = (64, 64)
    return Example(
        make_blood_cell_sites(folder, data, seed=seed, public_source=public),
        what=f"nucleus and cytoplasm of blood cells in {data.name}",
        title=f"demo ({data.name})",
        bundle="fedhelp_segmentation",
        rounds=10,
        local_epochs=2,
        overrides={"image_size": list(size)},
        stand_in_batch=4,
        stand_in_input=InputSpec(3, size),
    )
