"""What several tests share: tiny sites, the real data, one thread."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

BUNDLE = Path(__file__).parents[1] / "bundles" / "fedhelp_classification"
SMALL = {
    "image_size": [16, 16],
    "batch_size": 4,
    "network_def#init_features": 4,
    "network_def#growth_rate": 4,
    "network_def#block_config": [1, 1],
    "large_network_def#init_features": 8,
    "large_network_def#growth_rate": 8,
    "large_network_def#block_config": [1, 1],
}
"""Overrides that make the bundle's networks tiny."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)  # random weights and images do not depend on which tests ran before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data for tests; they do not belong to the repository."""
    path = Path(os.environ.get("FEDHELP_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        message = f"no test data at {path}; set FEDHELP_TEST_DATA"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path


def write_site(folder: Path, training=8, validation=4, testing=4, classes=2, seed=0, labelled=True) -> Path:
    """Write a site of 16x16 grey PNGs whose class is the brightness of one corner; return its datalist."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content: dict = {"name": folder.name, "labels": {str(i): f"class {i}" for i in range(classes)}}
    for split, count in (("training", training), ("validation", validation), ("testing", testing)):
        content[split] = []
        for index in range(count):
            label = index % classes
            pixels = random.integers(60, 120, (16, 16))
            pixels[:6, :6] += 60 * label
            name = f"images/{split}-{index}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            content[split].append({"image": name, "label": label} if labelled else {"image": name})
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def site(tmp_path):
    """Make tiny sites: ``site("a", training=8)`` returns a datalist's path."""
    return lambda name="a", **options: write_site(tmp_path / "sites" / name, **options)


def write_federation(folder: Path, **changes) -> Path:
    """Write a federation file of two tiny small sites and two large ones; keywords change its keys."""
    sites = []
    for index, (name, role, training) in enumerate(
        (
            ("clinic-a", "small", 6),
            ("clinic-b", "small", 6),
            ("hospital-a", "large", 12),
            ("hospital-b", "large", 10),
        )
    ):
        write_site(folder / "sites" / name, training=training, seed=index)
        sites.append({"name": name, "role": role, "data": f"sites/{name}/datalist.json"})
    content = {
        "name": "tiny",
        "seed": 3,
        "rounds": 2,
        "method": "fedhelp",
        "preset": "paper",
        "bundle": "fedhelp_classification",
        "overrides": SMALL,
        "sites": sites,
    } | changes
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture
def federation_file(tmp_path):
    """Write a federation file of tiny sites into the test's folder; keywords change its keys."""
    return lambda **changes: write_federation(tmp_path, **changes)
