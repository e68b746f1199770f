"""The classification bundle as MONAI sees it: verified, trained, evaluated and used from the command line, offline."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BUNDLE, SMALL
from monai.bundle import ConfigParser, ConfigWorkflow
from monai_bundle import SCHEMA, bundle_command, check_inference_on_a_folder_without_images
from torch.nn.modules.batchnorm import _BatchNorm

pytestmark = pytest.mark.integration

LARGE = "['configs/train.json','configs/train_large.json']"
TINY = {"spatial_dims": 2, "in_channels": 1, "channel_dim": "no_channel", "class_names": ["class 0", "class 1"]}


@pytest.fixture
def tiny_bundle(tmp_path) -> Path:
    """A copy of the bundle with tiny networks, and no weights."""
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("models"))
    for name in ("train.json", "inference.json"):
        path = copy / "configs" / name
        content = json.loads(path.read_text())
        content |= TINY | {"image_size": SMALL["image_size"]}
        for key, value in SMALL.items():
            section, _, last = key.partition("#")
            if last and section in content:
                content[section][last] = value
        if name == "train.json":
            content |= {"max_epochs": 2, "batch_size": 4}
        path.write_text(json.dumps(content))
    return copy


def test_every_file_of_the_contract_is_there():
    for name in (
        "configs/metadata.json",
        "configs/train.json",
        "configs/train_large.json",
        "configs/evaluate.json",
        "configs/inference.json",
        "configs/multi_gpu_train.json",
        "configs/logging.conf",
        "models/model.pt",
        "models/model.ts",
        "docs/README.md",
        "LICENSE",
    ):
        assert (BUNDLE / name).is_file(), name


def test_metadata_and_network_are_verified():
    schema = BUNDLE.parents[1] / "tests" / "bundles" / SCHEMA.name
    bundle_command("verify_metadata", "--meta_file", "configs/metadata.json", "--filepath", str(schema))
    for config in ("train", "inference"):
        bundle_command(
            "verify_net_in_out",
            "network_def",
            "--meta_file",
            "configs/metadata.json",
            "--config_file",
            f"configs/{config}.json",
        )


def test_the_schema_refuses_broken_metadata():
    from jsonschema import ValidationError, validate

    schema, metadata = json.loads(SCHEMA.read_text()), json.loads((BUNDLE / "configs/metadata.json").read_text())
    validate(metadata, schema)
    for key in schema["required"]:
        with pytest.raises(ValidationError):
            validate({name: value for name, value in metadata.items() if name != key}, schema)
    del metadata["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(ValidationError):
        validate(metadata, schema)


@pytest.mark.parametrize("config", ["configs/train.json", LARGE], ids=["small", "large"])
def test_properties_that_fl_and_label_tools_need(config, tiny_bundle, site):
    files = [str(tiny_bundle / name) for name in (json.loads(config.replace("'", '"')) if "[" in config else [config])]
    workflow = ConfigWorkflow(
        config_file=files, workflow_type="train", logging_file=False, dataset_dir=str(site("a").parent)
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.trainer.network is workflow.evaluator.network


def test_train_evaluate_and_infer_from_the_command_line(tiny_bundle, site):
    folder = site("a", training=8, validation=4, testing=4).parent
    data = ("--dataset_dir", str(folder))
    run = "run"
    output = bundle_command(run, "--config_file", "configs/train.json", *data, "--bundle_root", ".", cwd=tiny_bundle)
    assert "Epoch[2]" in output or "Epoch: 2/2" in output
    assert (tiny_bundle / "models/model.pt").is_file()

    output = bundle_command(
        run,
        "--config_file",
        "['configs/train.json','configs/evaluate.json']",
        *data,
        "--bundle_root",
        ".",
        cwd=tiny_bundle,
    )
    metrics = (tiny_bundle / "eval/metrics.csv").read_text()
    assert all(name in metrics for name in ("auc", "accuracy", "balanced_accuracy"))

    images = ("--dataset_dir", str(folder / "images"))
    bundle_command(run, "--config_file", "configs/inference.json", *images, "--bundle_root", ".", cwd=tiny_bundle)
    with (tiny_bundle / "predictions/predictions.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 16
    assert all(abs(sum(map(float, row[1:])) - 1) < 1e-5 for row in rows)


def test_the_large_role_trains_from_the_command_line(tiny_bundle, site):
    folder = site("a").parent
    bundle_command("run", "--config_file", LARGE, "--dataset_dir", str(folder), "--bundle_root", ".", cwd=tiny_bundle)
    assert (tiny_bundle / "models/model.pt").is_file()


def test_multi_gpu_config_trains_with_two_gloo_processes(tiny_bundle, site):
    folder = site("a").parent
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle",
         "run", "--config_file", "['configs/train.json','configs/multi_gpu_train.json']", "--dataset_dir", str(folder),
         "--bundle_root", "."],
        cwd=tiny_bundle,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tiny_bundle / "models/model.pt").is_file()


def test_shipped_weights_fit_and_the_torchscript_answers_the_same():
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    state = torch.load(BUNDLE / "models/model.pt", weights_only=True)
    network.load_state_dict(state["model"])
    assert not any(isinstance(module, _BatchNorm) for module in network.modules())
    script = torch.jit.load(BUNDLE / "models/model.ts").eval()
    image = torch.randn(2, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(script(image), network(image))
    assert (BUNDLE / "models/model.pt").stat().st_size < 5_000_000


def test_inference_on_a_folder_without_images_is_an_error(tmp_path):
    check_inference_on_a_folder_without_images(BUNDLE, tmp_path)


def test_inference_names_only_monai_and_torch():
    text = (BUNDLE / "configs/inference.json").read_text()
    assert "fedhelp_med" not in text


def test_train_and_inference_describe_the_same_network_and_input():
    train, inference = (json.loads((BUNDLE / f"configs/{n}.json").read_text()) for n in ("train", "inference"))
    for key in ("network_def", "class_names", "spatial_dims", "in_channels", "channel_dim", "image_size"):
        assert train[key] == inference[key], key
    prepared = train["train"]["preprocessing"]["transforms"][2:5]  # after the loader and the check of what it loaded
    assert prepared == inference["preprocessing"]["transforms"][1:4]


@pytest.mark.parametrize(("images", "left_out"), [(1, False), (16, False), (17, True), (18, False), (33, True)])
def test_no_last_batch_of_one_image_reaches_a_batch_normalisation(images, left_out):
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/train.json"))
    parser["train#dataset"] = f"$list(range({images}))"
    loader = parser.get_parsed_content("train#dataloader")
    assert loader.drop_last == left_out
    assert min(len(batch) for batch in loader) > 1 or images == 1
