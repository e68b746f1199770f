"""Tiny segmentation sites: a grey and a bright block on a dark ground, in 2-D or 3-D NIfTI."""

import json
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

SEGMENTATION = Path(__file__).parents[1] / "bundles" / "fedhelp_segmentation"
CLASSES = ("background", "grey block", "bright block")
TINY = {
    "image_size": [16, 16],
    "roi_size": [16, 16],
    "batch_size": 4,
    "epoch_size": 0,
    "network_def#features": [4, 4, 4, 4, 8, 4],
    "large_network_def#features": [8, 8, 8, 8, 8, 8],
}
"""Overrides that make the bundle's images and networks tiny."""


def make_study(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask: one block in each half of the first axis, half as long as the image along the others."""
    mask = np.zeros(shape, np.uint8)
    for value in (1, 2):
        place = [slice((value - 1) * (shape[0] // 2), value * (shape[0] // 2))]
        for length in shape[1:]:
            low = int(rng.integers(0, length - length // 2 + 1))
            place.append(slice(low, low + max(1, length // 2)))
        mask[tuple(place)] = value
    return (100 + 300.0 * mask + rng.normal(0, 10, shape)).astype(np.int16), mask


def write_mask_site(
    folder: Path, training=4, validation=2, testing=2, shape=(16, 16), seed=0, labelled=True, affine=None
) -> Path:
    """Write a site; return its datalist."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    content: dict = {"name": folder.name, "labels": {str(index): name for index, name in enumerate(CLASSES)}}
    for split, count in (("training", training), ("validation", validation), ("testing", testing)):
        content[split] = []
        for index in range(count):
            image, mask = make_study(rng, shape)
            item = {"image": f"images/{split}-{index}.nii", "label": f"masks/{split}-{index}.nii"}
            for key, voxels in (("image", image), ("label", mask)):
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), folder / item[key])
            content[split].append(item if labelled else {"image": item["image"]})
    content["public"] = not labelled
    path = folder / "datalist.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value}))
    return path


def write_crops(folder: Path, count: int, seed: int = 0, size: int = 20) -> Path:
    """Write a folder of blood-cell crops: a square nucleus in a square of cytoplasm."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        mask = np.zeros((size, size + index % 3), np.uint8)
        mask[4:14, 4:14], mask[6:10, 6:10] = 1, 2
        pixels = rng.integers(0, 60, (*mask.shape, 3)) + 60 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{index:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index:03d}.png")
    return folder
