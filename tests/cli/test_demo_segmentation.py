"""``fedhelp demo --task segmentation`` with networks that are tiny and hardly trained: everything but the quality."""

import csv
import dataclasses
import sys

import pytest
import yaml
from mask_sites import TINY, write_crops

from fedhelp_med.cli import demo as demo_module
from fedhelp_med.cli.main import main
from fedhelp_med.common.errors import InputError
from fedhelp_med.data import DemoData, make_blood_cell_sites, make_tissue_sites, read_datalist
from fedhelp_med.foundation import InputSpec

pytestmark = pytest.mark.integration

FEW = {
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 3,
    "large_training": 4,
    "small_validation": 2,
    "large_validation": 2,
    "testing": 2,
    "public": 8,
    "foundation": 8,
}


@pytest.fixture
def tiny(monkeypatch):
    """Demos of few studies, tiny networks and a stand-in of two steps."""
    original = demo_module.make_example
    made: dict[str, DemoData] = {}

    def make(*arguments):
        example = original(*arguments)
        made["data"] = example.data
        spec = example.stand_in_input and InputSpec(3, (16, 16))
        return dataclasses.replace(example, overrides=TINY, stand_in_input=spec)

    def few(maker, **more):
        return lambda *arguments, **options: maker(*arguments, **options, **FEW, **more)

    monkeypatch.setattr("fedhelp_med.cli.examples.make_tissue_sites", few(make_tissue_sites, foundation_validation=2))
    monkeypatch.setattr("fedhelp_med.cli.examples.make_blood_cell_sites", few(make_blood_cell_sites))
    monkeypatch.setattr(demo_module, "make_example", make)
    monkeypatch.setattr(demo_module, "STAND_IN_STEPS", 2)
    return made


def fedhelp(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhelp", *map(str, arguments)])
    main()


@pytest.mark.parametrize("source", ["template", "template and pictures", "cells", "two stains"])
def test_the_demo_from_nothing_to_a_table(tiny, monkeypatch, capsys, tmp_path, shared_data, source):
    out = tmp_path / "demo"
    data = () if source.startswith("template") else ("--data", write_crops(tmp_path / "stain", 32))
    public = ("--public", write_crops(tmp_path / "other", 20, seed=1)) if source == "two stains" else ()
    if source == "template and pictures":
        public = ("--public", shared_data / "mednist_300_per_class.zip")
    fedhelp(monkeypatch, "demo", "--task", "segmentation", "--out", out, "--rounds", 1, "--workers", 1, *data, *public)
    shown = capsys.readouterr().out
    assert "dice_mean on each site's own test studies" in shown and "Gap between the roles" in shown
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    tested = {(row["site"], row["model"]) for row in rows if row["split"] == "testing" and row["metric"] == "dice_mean"}
    sites = ("clinic-a", "clinic-b", "hospital-a")
    assert {(site, model) for site in sites for model in ("local", "deployed")} <= tested
    file = yaml.safe_load((out / "data/federation.yaml").read_text())
    assert file["bundle"] == "fedhelp_segmentation"
    images = [item["image"] for item in read_datalist(tiny["data"].public).splits["training"]]
    suffix = ".nii" if source == "template" else ".png"
    assert len(images) >= 6 and all(image.endswith(suffix) for image in images)


def test_data_of_the_other_task_are_refused(tmp_path):
    npz = tmp_path / "chest.npz"
    npz.write_bytes(b"")
    options = {"seed": 0, "rounds": 1, "workers": 1, "resume": False}
    with pytest.raises(InputError, match="for --task segmentation name a folder with images/ and masks/"):
        demo_module.run_demo(tmp_path / "out", npz, None, task="segmentation", **options)
    with pytest.raises(InputError, match=r"for --task classification name a MedMNIST \.npz file"):
        demo_module.run_demo(tmp_path / "out", tmp_path, None, **options)
    with pytest.raises(InputError, match="beside the template name a zip with one folder of pictures per class"):
        demo_module.run_demo(tmp_path / "out", None, tmp_path, task="segmentation", **options)
    with pytest.raises(InputError, match=r"chest\.npz: beside .* name a folder with images/ and masks/"):
        demo_module.run_demo(tmp_path / "out", tmp_path, npz, task="segmentation", **options)
