"""A finished site's network elsewhere: a MONAI bundle and an ONNX model that answer as the site's network does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import write_federation
from dicom_samples import write_radiograph
from jsonschema import validate
from mask_sites import TINY, write_mask_site
from monai.bundle import ConfigParser, ConfigWorkflow
from monai_bundle import SCHEMA, bundle_command
from PIL import Image

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.export.bundle import _limits, export_bundle
from fedhelp_med.export.deployed import read_deployed
from fedhelp_med.export.onnx_model import export_onnx, largest_difference, write_onnx
from fedhelp_med.federation.loading import bundle_folder, load_federation
from fedhelp_med.federation.runner import run_federation

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of classification whose sites deploy the mean of two networks."""
    folder = tmp_path_factory.mktemp("classification")
    path = write_federation(folder, preset="recommended", settings={"choose": False})
    run_federation(load_federation(path), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A run of segmentation in 3-D whose sites deploy one network."""
    folder = tmp_path_factory.mktemp("segmentation")
    write_mask_site(folder / "clinic", shape=(20, 16, 16))
    content = {
        "name": "volumes",
        "rounds": 1,
        "method": "fedavg",
        "bundle": "fedhelp_segmentation",
        "overrides": TINY | {"spatial_dims": 3, "image_size": None, "roi_size": [16, 16, 16]},
        "sites": [{"name": "clinic", "role": "small", "data": "clinic/datalist.json"}],
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))
    run_federation(load_federation(folder / "federation.yaml"), folder / "run")
    return folder / "run"


def test_data_in_the_runs_bundle_are_not_exported(tmp_path):
    bundle = tmp_path / "own"
    shutil.copytree(bundle_folder("fedhelp_classification"), bundle, ignore=shutil.ignore_patterns("models"))
    for planted in ("data/patient.nii.gz", "configs/train.json.orig", "notes.csv"):
        (bundle / planted).parent.mkdir(exist_ok=True)
        (bundle / planted).write_text("planted")
    write_federation(tmp_path, bundle=str(bundle), rounds=1, method="fedavg")
    run_federation(load_federation(tmp_path / "federation.yaml"), tmp_path / "run")
    export_bundle(tmp_path / "run", "clinic-a", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["LICENSE", "configs", "docs", "models"]


@pytest.mark.parametrize("site", ["clinic-a", "hospital-a"])
def test_the_bundle_answers_as_the_site_does(run, site, tmp_path):
    out = tmp_path / "bundle"
    deployed = export_bundle(run, site, out)
    assert deployed.names == (("large" if site == "hospital-a" else "surrogate"), "global")
    parser = ConfigParser()
    parser.read_config(str(out / "configs/inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(out / "models/model.pt", weights_only=True))
    script = torch.jit.load(out / "models/model.ts").eval()
    image = torch.randn(2, *deployed.input_shape())
    with torch.inference_mode():
        expected = deployed.network()(image)
        assert torch.equal(network(image), expected)
        torch.testing.assert_close(script(image), expected)
    metadata = json.loads((out / "configs/metadata.json").read_text())
    validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "class 0", "1": "class 1"}
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 1
    assert set(metadata["eval_metrics"]) == {"accuracy", "auc", "balanced_accuracy"}


def test_the_readme_says_loudly_where_the_site_learned_from_dicom(run, volumes, tmp_path):
    deployed = read_deployed(run, "clinic-a")
    assert "DICOM is another matter" in _limits(deployed) and "**" not in _limits(deployed)
    path = write_radiograph(tmp_path / "x.dcm")
    content = {"training": [{"image": str(path), "label": 0}]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    told = _limits(replace(deployed, datalist=tmp_path / "datalist.json"))
    assert told.startswith("**This site learned from DICOM: use `fedhelp predict`, not this command.**")
    assert "**" not in _limits(replace(deployed, datalist=tmp_path / "gone.json"))
    assert "single slices" not in told  # a classifier
    volume = read_deployed(volumes, "clinic")
    assert "single slices" not in _limits(volume)
    changes = {**volume.changes, "spatial_dims": 2}
    assert "Volumes, of one slice too, fail in `Resized`" in _limits(replace(volume, changes=changes))


def test_nothing_of_the_run_is_in_the_bundle(run, tmp_path):
    export_bundle(run, "hospital-a", tmp_path / "bundle")
    for file in (tmp_path / "bundle").rglob("*"):
        if file.is_file():
            assert str(run.parent).encode() not in file.read_bytes(), file


def test_the_bundle_trains_on_and_infers_from_the_command_line(run, tmp_path):
    out = tmp_path / "bundle"
    export_bundle(run, "clinic-a", out)
    data = run.parent / "sites" / "clinic-b"
    workflow = ConfigWorkflow(
        config_file=str(out / "configs/train.json"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(data),
        bundle_root=str(out),
        max_epochs=1,
    )
    workflow.initialize()
    before = {key: value.clone() for key, value in workflow.trainer.network.state_dict().items()}
    workflow.run()
    after = workflow.trainer.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)

    images = ("--dataset_dir", str(data / "images"), "--bundle_root", ".")
    bundle_command("run", "--config_file", "configs/inference.json", *images, cwd=out)
    assert len((out / "predictions/predictions.csv").read_text().splitlines()) == 14


def test_volumes(volumes, tmp_path):
    deployed = export_bundle(volumes, "clinic", tmp_path / "bundle")
    assert deployed.input_shape() == (1, 16, 16, 16)
    metadata = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert "fedhelp_med" not in (tmp_path / "bundle/configs/inference.json").read_text()  # a plain network needs MONAI
    network = deployed.network()
    write_onnx(network, deployed.input_shape(), tmp_path / "model.onnx")
    images = [torch.randn(size, 1, 16, 16, 16) for size in (1, 3)]
    assert largest_difference(network, tmp_path / "model.onnx", images) < 1e-4


def test_onnx_without_torch_and_monai_from_what_the_json_says(run, tmp_path):
    report = export_onnx(run, "clinic-a", tmp_path / "onnx")
    assert report.difference < 1e-4 and report.compared > 2  # noise, and the site's own validation studies
    assert set(report.costs) >= {"torch", "onnxruntime", "onnxruntime merged"}
    told = json.loads((tmp_path / "onnx/model.json").read_text())
    for name in ("merged", "int8"):
        assert (tmp_path / f"onnx/model.{name}.onnx").is_file() == told[name].startswith("kept")
    assert (told["merged"], told["int8"]) == (report.merged, report.int8)
    steps = [step["_target_"].rpartition(".")[2] for step in told["preprocessing"]]
    assert steps == ["LoadStudyd", "EnsureChannelFirstd", "Resized", "NormalizeIntensityd"]
    assert all("does" in step for step in (*told["preprocessing"], *told["postprocessing"]))

    path = run.parent / "sites/clinic-a/images/testing-0.png"
    image = np.asarray(Image.open(path), np.float32).T  # columns first
    assert list(image.shape) == told["input"]["spatial"]  # so there is nothing to resize
    image = (image - image.mean()) / image.std()
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    (logits,) = session.run(None, {"image": image[None, None]})
    answer = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()

    deployed = read_deployed(run, "clinic-a")
    parser = deployed.parser("inference.json")
    prepared = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]
    with torch.inference_mode():
        expected = deployed.network()(torch.as_tensor(prepared)[None]).softmax(1)
    np.testing.assert_allclose(answer, expected.numpy(), atol=told["tolerance"]["probability"])


def test_what_is_wrong_is_said(run, tmp_path):
    with pytest.raises(InputError, match="has no site 'clinic-x'; its sites are clinic-a, clinic-b, hospital-a"):
        read_deployed(run, "clinic-x")
    with pytest.raises(InputError, match="is not a run folder"):
        read_deployed(tmp_path, "clinic-a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("years of work")
    for export in (export_bundle, export_onnx):
        with pytest.raises(InputError, match="not empty; choose another --out"):
            export(run, "clinic-a", tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.docx"]


def test_an_unfinished_site_has_nothing_to_export(federation_file, tmp_path, monkeypatch):
    from fedhelp_med.federation.site import SiteHost

    def broken(*_):
        raise FedHelpError("stopped before the end")

    monkeypatch.setattr(SiteHost, "test", broken)
    with pytest.raises(FedHelpError):
        run_federation(load_federation(federation_file(rounds=1)), tmp_path / "run")
    with pytest.raises(InputError, match="clinic-a has no deployed network yet; finish the run with"):
        read_deployed(tmp_path / "run", "clinic-a")


def test_a_network_that_was_changed_after_the_run_is_refused(run, tmp_path, monkeypatch):
    from fedhelp_med.export import deployed as module

    state = module.load_tensors

    def cut(path):
        return {key: value[:1] if value.ndim else value for key, value in state(path).items()}

    monkeypatch.setattr(module, "load_tensors", cut)
    with pytest.raises(FedHelpError, match="its weights fit no network of"):
        read_deployed(run, "clinic-a")


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhelp_med.export.onnx_model.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx is not installed; it comes with `pip install 'fedhelp-med\[onnx\]'`"):
        export_onnx(run, "clinic-a", tmp_path / "onnx")


def test_the_command_line(run, tmp_path):
    code = "import sys; from fedhelp_med.cli.main import main; sys.argv[0] = 'fedhelp'; main()"
    command = [sys.executable, "-c", code, "export", "bundle", str(run), "--site", "clinic-b"]
    done = subprocess.run([*command, "--out", str(tmp_path / "b")], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "MONAI bundle of clinic-b" in done.stdout, done.stderr
    again = subprocess.run([*command, "--out", str(tmp_path / "b")], capture_output=True, encoding="utf-8")
    assert again.returncode == 2 and again.stderr.startswith("fedhelp: ") and "Traceback" not in again.stderr


@pytest.mark.parametrize("command", ["onnx_export", "ckpt_export"])
def test_the_shipped_bundles_export_from_the_command_line(command, tmp_path):
    from conftest import BUNDLE
    from mask_sites import SEGMENTATION

    bundle, key = (BUNDLE, ("--key_in_ckpt", "model")) if command == "onnx_export" else (SEGMENTATION, ())
    out = tmp_path / ("model.onnx" if command == "onnx_export" else "model.ts")
    files = ("--ckpt_file", "models/model.pt", "--meta_file", "configs/metadata.json")
    config = ("--config_file", "configs/inference.json", *key)
    bundle_command(command, "network_def", "--filepath", str(out), *files, *config, cwd=bundle)
    if command == "onnx_export":
        session = onnxruntime.InferenceSession(out)
        name = session.get_inputs()[0].name
        assert session.run(None, {name: np.zeros((1, 8, 64, 64), np.float32)})[0].shape == (1, 2)
    else:
        with torch.inference_mode():
            assert torch.jit.load(out).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 3, 64, 64)
