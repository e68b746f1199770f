"""What the sites of a run deploy, on their own testing images and on others'."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_federation
from PIL import Image

from fedhelp_med.cli.predict import predict_images
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.studies import Study
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.prediction import load_model, predict_source
from fedhelp_med.prediction.job import unique_names

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A federation of classification, run; its run folder was moved afterwards."""
    folder = tmp_path_factory.mktemp("run")
    run_federation(load_federation(write_federation(folder, rounds=1)), folder / "first")
    (folder / "first").rename(folder / "run")
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images_of(folder, site):
    target = folder / f"testing-{site}"
    if not target.exists():
        target.mkdir()
        for path in sorted((folder / "sites" / site / "images").glob("testing-*")):
            shutil.copy(path, target)
    return target


@pytest.mark.parametrize("site", ["clinic-a", "hospital-b"])
def test_a_site_predicts_what_it_was_evaluated_with(folder, site, tmp_path):
    predict_source(load_model(f"{folder / 'run'}:{site}"), images_of(folder, site), tmp_path / "out")
    found = {row["study"]: row for row in rows(tmp_path / "out/predictions.csv")}
    expected = rows(folder / "run/sites" / site / "studies/deployed.csv")
    assert len(found) == len(expected) == 4
    for row in expected:
        predicted = found[f"testing-{row['study']}"]
        for name in ("p(class 0)", "p(class 1)"):
            assert float(predicted[name]) == pytest.approx(float(row[name]), abs=1e-6)
        best = max(("class 0", "class 1"), key=lambda label: float(row[f"p({label})"]))
        assert predicted["predicted"] == best


def test_the_option_site_is_the_same_as_the_colon(folder, tmp_path):
    source = images_of(folder, "clinic-a")
    for name, model in (("colon", load_model(f"{folder / 'run'}:clinic-a")), ("option", None)):
        predict_source(model or load_model(str(folder / "run"), "clinic-a"), source, tmp_path / name)
    for file in ("predictions.csv", "predictions.json", "rejected.csv", "pictures/testing-0.png"):
        assert (tmp_path / "colon" / file).read_bytes() == (tmp_path / "option" / file).read_bytes()


def test_without_a_site_the_global_network_predicts(folder, tmp_path):
    model = load_model(str(folder / "run"))
    assert model.source == f"global, {folder / 'run'}"
    predict_source(model, images_of(folder, "clinic-a"), tmp_path / "out")
    found = [float(row["p(class 1)"]) for row in rows(tmp_path / "out/predictions.csv")]
    expected = [float(row["p(class 1)"]) for row in rows(folder / "run/sites/clinic-a/studies/global.csv")]
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_bad_image_is_named_and_does_not_stop_the_others(folder, tmp_path, capsys):
    source = tmp_path / "in"
    shutil.copytree(images_of(folder, "clinic-a"), source)
    (source / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(source / "colour.png")
    predict_images(f"{folder / 'run'}:clinic-a", source, tmp_path / "out", None)
    assert len(rows(tmp_path / "out/predictions.csv")) == 4
    reasons = {row["path"]: row["reason"] for row in rows(tmp_path / "out/rejected.csv")}
    assert set(reasons) == {str(source / "text.png"), str(source / "colour.png")}
    assert "(16, 16, 3)" in reasons[str(source / "colour.png")]
    assert "takes 1 channel(s)" in reasons[str(source / "colour.png")]
    text = capsys.readouterr().out
    assert "4 image(s) predicted" in text and "2 entries with a reason" in text


def test_a_medmnist_file_is_predicted_image_by_image(folder, tmp_path):
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(images_of(folder, "clinic-a").iterdir())])
    labels = np.array([[0], [1], [0], [1]])
    parts = {f"{split}_{kind}": part for split in ("train", "val", "test") for kind, part in
             (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(tmp_path / "few.npz", **parts)
    model = load_model(f"{folder / 'run'}:clinic-a")
    predict_source(model, tmp_path / "few.npz", tmp_path / "out")
    predict_source(model, images_of(folder, "clinic-a"), tmp_path / "single")
    found = {row["study"]: row["p(class 1)"] for row in rows(tmp_path / "out/predictions.csv")}
    single = [row["p(class 1)"] for row in rows(tmp_path / "single/predictions.csv")]
    assert len(found) == 12
    assert [found[f"few_testing-{index:06d}"] for index in range(4)] == single


def test_names_are_unique():
    def studies(*paths):
        return [Study("picture", (Path(path),), "") for path in paths]

    found = unique_names(studies("/d/a/x.png", "/d/a_x.nii.gz", "/d/a_x-2.png", "/d/a x.png", "/e/x.png"), [Path("/d")])
    assert found == ["a_x", "a_x-2", "a_x-2-", "a_x-3", "x"]


def test_nothing_predicted_is_a_failure(folder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.png").write_text("no picture")
    with pytest.raises(FedHelpError, match="no image could be predicted") as error:
        predict_source(load_model(f"{folder / 'run'}:clinic-a"), tmp_path / "in", tmp_path / "out")
    assert error.value.exit_status == 1
    assert len(rows(tmp_path / "out/rejected.csv")) == 1
    assert not (tmp_path / "out/predictions.csv").exists()


def test_results_are_not_mixed_with_others(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty"):
        predict_source(load_model(f"{folder / 'run'}:clinic-a"), images_of(folder, "clinic-a"), tmp_path)


def test_the_json_says_what_predicted(folder, tmp_path):
    predict_source(load_model(f"{folder / 'run'}:hospital-b"), images_of(folder, "hospital-b"), tmp_path / "out")
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    assert content["task"] == "classification" and content["classes"] == ["class 0", "class 1"]
    assert "hospital-b" in content["model"]
    for study in content["studies"]:
        assert study["p(class 0)"] + study["p(class 1)"] == pytest.approx(1, abs=1e-6)


def test_models_that_are_not_there(folder, tmp_path):
    with pytest.raises(InputError, match="its sites are clinic-a, clinic-b, hospital-a, hospital-b"):
        load_model(f"{folder / 'run'}:nobody")
    with pytest.raises(InputError, match="neither a run folder"):
        load_model(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="is a bundle, which has no sites"):
        load_model("fedhelp_segmentation", "clinic-a")
