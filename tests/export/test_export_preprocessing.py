"""What an export says of preprocessing: the loader that training used, and no transform that was forgotten."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dicom_samples import write_radiograph, write_series
from mask_sites import SEGMENTATION

from fedhelp_med.common.errors import InputError
from fedhelp_med.export.deployed import Deployed
from fedhelp_med.export.onnx_model import _studies
from fedhelp_med.export.preprocessing import check_preparation, describe
from fedhelp_med.export.scoring import validation_score
from fedhelp_med.networks import small_classifier

CLASSIFICATION = Path(__file__).parents[2] / "bundles" / "fedhelp_classification"


def deployed(bundle: Path = CLASSIFICATION, datalist: Path = Path("none.json"), **changes: Any) -> Deployed:
    """A site whose network was trained on images of 8 x 6 pixels."""
    one = {"in_channels": 1, "channel_dim": "no_channel", "image_size": [8, 6]}
    parts = {"names": ("surrogate",), "definitions": ({},), "heads": ("",), "states": ({},), "offset": ()}
    return Deployed(
        site="clinic", role="small", federation="f", bundle=bundle, changes=one | changes, metrics={},
        datalist=datalist, **parts,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """Copy the classification bundle: ``bundle(edit)`` changes the transforms of each config."""

    def copy(**edits: Any) -> Path:
        folder = tmp_path / "own"
        shutil.copytree(CLASSIFICATION / "configs", folder / "configs")
        for name, edit in edits.items():
            file = folder / "configs" / f"{name}.json"
            content = json.loads(file.read_text())
            edit(content)
            file.write_text(json.dumps(content))
        return folder

    return copy


def add_to_training(content: dict[str, Any]) -> None:
    content["train"]["preprocessing"]["transforms"].insert(1, {"_target_": "Flipd", "keys": "image"})


def add_to_inference(content: dict[str, Any]) -> None:
    content["preprocessing"]["transforms"].insert(1, {"_target_": "Flipd", "keys": "image"})


@pytest.mark.parametrize("shipped", [CLASSIFICATION, SEGMENTATION])
def test_the_shipped_bundles_prepare_alike(shipped):
    check_preparation(deployed(shipped))
    check_preparation(deployed(shipped, image_size=None, roi_size=[16, 16]))


def test_a_transform_of_training_alone_is_refused(bundle):
    folder = bundle(train=add_to_training)
    message = (
        "configs/inference.json prepares images by EnsureChannelFirst, Resize, NormalizeIntensity, but "
        "validate#preprocessing of configs/train.json, .*, by Flip, EnsureChannelFirst, Resize, NormalizeIntensity; "
    )
    with pytest.raises(InputError, match=message):
        check_preparation(deployed(folder))


def test_a_transform_in_both_configs_is_exported(bundle):
    folder = bundle(train=add_to_training, inference=add_to_inference)
    check_preparation(deployed(folder))
    names = [step["_target_"].rpartition(".")[2] for step in describe(deployed(folder))["preprocessing"]]
    assert names == ["LoadStudyd", "Flipd", "EnsureChannelFirstd", "Resized", "NormalizeIntensityd"]


def test_a_bundle_without_validation_has_nothing_to_compare(bundle):
    check_preparation(deployed(bundle(train=lambda content: content.pop("validate"))))


def test_the_first_step_says_how_dicom_is_read(bundle):
    step = describe(deployed())["preprocessing"][0]
    assert step["_target_"] == "fedhelp_med.transforms.LoadStudyd"
    for rule in ("position along the normal", "rescaled", "MONOCHROME1 is turned over", "padding pixels become"):
        assert rule in step["does"]
    assert "window" not in step["does"]

    def loads_otherwise(content: dict[str, Any]) -> None:
        content["train"]["preprocessing"]["transforms"][0] |= {"voi": True, "invert": False, "padding": "keep"}

    does = describe(deployed(bundle(train=loads_otherwise)))["preprocessing"][0]["does"]
    assert "window or VOI LUT is applied" in does and "MONOCHROME1" not in does and "padding" not in does


def test_a_bundle_that_trains_with_monais_loader_says_so(bundle):
    def loads_with_monai(content: dict[str, Any]) -> None:
        content["train"]["preprocessing"]["transforms"][0]["_target_"] = "LoadImaged"

    step = describe(deployed(bundle(train=loads_with_monai)))["preprocessing"][0]
    assert step["_target_"] == "LoadImaged" and "DICOM" not in step["does"]


def write_datalist(folder: Path, images: list[str]) -> Path:
    path = folder / "datalist.json"
    items = [{"image": image, "label": index % 2} for index, image in enumerate(images)]
    path.write_text(json.dumps({"labels": {"0": "no", "1": "yes"}, "validation": items}))
    return path


def test_radiographs_of_the_site_are_compared_as_they_were_trained_on(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8)
    write_radiograph(tmp_path / "plain.dcm", pixels)
    write_radiograph(tmp_path / "turned.dcm", pixels, photometric="MONOCHROME1")
    site = deployed(datalist=write_datalist(tmp_path, ["plain.dcm", "turned.dcm"]))
    plain, turned = _studies(site, (1, 8, 6))
    torch.testing.assert_close(turned, -plain)  # the mean is taken off


def test_series_in_folders_count_among_the_validation_studies(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        write_series(tmp_path / name, random.integers(0, 99, (32, 32, 3)).astype(np.int16), patient=name)
    datalist = write_datalist(tmp_path, ["a", "b", "c", "d"])
    site = deployed(datalist=datalist, in_channels=3, channel_dim=-1, image_size=[32, 32])
    assert [tuple(study.shape) for study in _studies(site, (3, 32, 32))] == [(1, 3, 32, 32)] * 4
    score = validation_score(site)
    assert score is not None and 0 <= score(small_classifier(2, 3, 2)) <= 1
