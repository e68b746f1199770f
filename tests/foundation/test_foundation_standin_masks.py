"""A stand-in for masks: it learns, its answers are maps, and masks that do not fit are named."""

import json

import nibabel
import numpy as np
import pytest
import torch
from mask_sites import CLASSES, write_mask_site

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation import InputSpec, load_local_model, train_stand_in

pytestmark = pytest.mark.integration
ARGUMENTS = {"seed": 3, "steps": 60, "batch_size": 4, "threads": 1}


@pytest.fixture
def labelled(tmp_path):
    return write_mask_site(tmp_path / "data", training=8, validation=4, testing=0, shape=(24, 20))


def test_it_learns_maps(labelled, tmp_path):
    file = train_stand_in(labelled, tmp_path / "model", **ARGUMENTS, input=InputSpec(1, (16, 16)))
    content = json.loads(file.read_text())
    assert (content["kind"], content["classes"]) == ("mask logits", list(CLASSES))
    assert content["input"] == {"channels": 1, "size": [16, 16], "value_range": [0, 1]}
    measured = content["provenance"]["validation"]
    assert measured["dice_mean"] > 0.8 and measured["accuracy"] > 0.8
    model = load_local_model(file)
    image = json.loads(labelled.read_text())["validation"][0]["image"]
    answer = model.predict(model.input.preprocess(labelled.parent / image)[None])
    assert answer.shape == (1, 3, 16, 16)


def test_it_repeats_itself_and_is_not_trained_twice(labelled, tmp_path):
    arguments = {**ARGUMENTS, "steps": 2}
    files = [train_stand_in(labelled, tmp_path / name, **arguments) for name in ("a", "b")]
    weights = [torch.jit.load(file.with_name("foundation.ts")).state_dict() for file in files]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    written = files[0].with_name("foundation.ts").stat().st_mtime_ns
    train_stand_in(labelled, tmp_path / "a", **arguments)
    assert files[0].with_name("foundation.ts").stat().st_mtime_ns == written
    mask = labelled.parent / json.loads(labelled.read_text())["training"][0]["label"]
    nibabel.save(nibabel.Nifti1Image(np.zeros((24, 20), np.uint8), np.eye(4)), mask)
    train_stand_in(labelled, tmp_path / "a", **arguments)
    assert files[0].with_name("foundation.ts").stat().st_mtime_ns != written


def test_masks_that_do_not_fit_are_named(labelled, tmp_path):
    content = json.loads(labelled.read_text())
    mask = labelled.parent / content["training"][1]["label"]
    nibabel.save(nibabel.Nifti1Image(np.full((24, 20), 7, np.uint8), np.eye(4)), mask)
    with pytest.raises(InputError, match=r"training-1\.nii is no mask of 3 classes"):
        train_stand_in(labelled, tmp_path / "model", **ARGUMENTS)
    for item in content["training"]:
        path = labelled.parent / item["label"]
        nibabel.save(nibabel.Nifti1Image(np.ones((24, 20), np.uint8), np.eye(4)), path)
    with pytest.raises(InputError, match="no training image of background, bright block"):
        train_stand_in(labelled, tmp_path / "model", **ARGUMENTS)
