"""Tiny public sets on disk, and a real model that counts what it is asked."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

from fedhelp_med.foundation import InputSpec, LocalFoundationModel

SPEC = InputSpec(channels=3, size=(8, 8))
CLASSES = ("no lesion", "lesion")


class CountingNetwork(nn.Module):
    """A linear classifier that remembers the size of each batch it was given; ``fill`` replaces its logits."""

    def __init__(self, classes: int = 2, fill: float | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Linear(3 * 8 * 8, classes)
        self.fill = fill
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        logits = self.head(images.flatten(1))
        return logits if self.fill is None else torch.full_like(logits, self.fill)


def make_model(network: nn.Module | None = None, version: str = "1", spec: InputSpec = SPEC) -> LocalFoundationModel:
    """A model that two processes make alike."""
    network = CountingNetwork() if network is None else network
    return LocalFoundationModel(network, name="counting", version=version, classes=CLASSES, input=spec)


def write_image(path: Path, seed: int) -> None:
    """A NIfTI slab of 8 x 8 pixels and 3 slices."""
    voxels = np.random.default_rng(seed).normal(100, 20, size=(8, 8, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


def write_public(
    folder: Path,
    seeds: Iterable[int] = range(6),
    labels: Sequence[int | None] = (),
    classes: Sequence[str] = CLASSES,
    public: bool = True,
    **splits: Iterable[int],
) -> Path:
    """Write slabs, one per seed (equal seeds: equal images), and their datalist; return its path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content: dict = {"name": "phantoms", "public": public}
    if classes:
        content["labels"] = {str(index): name for index, name in enumerate(classes)}
    for split, chosen in {"training": seeds, **splits}.items():
        content[split] = []
        for index, seed in enumerate(chosen):
            name = f"images/{split}-{index:03d}.nii.gz"
            write_image(folder / name, seed)
            content[split].append({"image": name})
    for item, label in zip(content["training"], labels, strict=False):
        if label is not None:
            item["label"] = label
    file = folder / "datalist.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file
