"""Both bundles can show public images as other scanners might have taken them; what the foundation model said stays."""

import numpy as np
import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from PIL import Image

from fedhelp_med.methods.fedmd import PLAIN_PUBLIC

KNOWLEDGE = {"fedhelp_classification": (2,), "fedhelp_segmentation": (3, 16, 16)}


@pytest.fixture
def item(tmp_path):
    """A public image of 16 x 16 pixels, all of different brightness."""
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "image.png")
    return {"image": str(tmp_path / "image.png")}


def prepared(bundle, item, **changes):
    """Prepare the image twelve times, each time with another random state."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE.parent / bundle / "configs/train.json"))
    size = {"image_size": [16, 16], "in_channels": 1}
    parser.update(size | ({"roi_size": [16, 16]} if "segmentation" in bundle else {}) | changes)
    transform = parser.get_parsed_content("public#preprocessing")
    random = np.random.default_rng(0)
    given = item | {"knowledge": random.normal(size=KNOWLEDGE[bundle]).astype(np.float32)}
    made = []
    for seed in range(12):
        transform.set_random_state(seed)
        made.append(transform(dict(given)))
    return given["knowledge"], made


def values(image):
    return torch.as_tensor(np.asarray(image)).flatten().sort().values


@pytest.mark.parametrize("bundle", KNOWLEDGE)
def test_the_look_varies_and_the_knowledge_does_not(bundle, item):
    knowledge, made = prepared(bundle, item, **{"public#vary": True})
    looks = {values(one["image"]).numpy().tobytes() for one in made}
    assert len(looks) > 6  # one scanner's look in about an eighth of the cases
    for one in made:
        image = torch.as_tensor(one["image"])
        assert image.mean().abs() < 1e-4 and abs(image.std(correction=0) - 1) < 1e-3
        assert torch.equal(values(one["knowledge"]), values(knowledge))


@pytest.mark.parametrize("bundle", KNOWLEDGE)
def test_it_is_off_by_default(bundle, item):
    _, made = prepared(bundle, item)
    looks = {values(one["image"]).numpy().tobytes() for one in made}
    assert len(looks) == 1


@pytest.mark.parametrize("bundle", KNOWLEDGE)
def test_a_consensus_means_the_same_pixels_at_all_sites(bundle, item):
    parser = ConfigParser()
    parser.read_config(str(BUNDLE.parent / bundle / "configs/train.json"))
    parser.update(
        {"image_size": [16, 16], "in_channels": 1, "public#vary": True, "plain": dict(PLAIN_PUBLIC["transform"])}
    )
    plain = parser.get_parsed_content("plain")
    assert torch.equal(torch.as_tensor(plain(dict(item))["image"]), torch.as_tensor(plain(dict(item))["image"]))
