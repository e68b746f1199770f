"""The segmentation bundle as MONAI sees it, in 2-D and 3-D: verified, trained, evaluated and used, offline."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from mask_sites import CLASSES, SEGMENTATION, TINY, write_mask_site
from monai.bundle import ConfigParser, ConfigWorkflow
from monai_bundle import SCHEMA, bundle_command, check_inference_on_a_folder_without_images
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

pytestmark = pytest.mark.integration

LARGE = "['configs/train.json','configs/train_large.json']"
SHAPES = {2: (16, 16), 3: (16, 16, 20)}
AFFINE = np.array([[0.9, 0.1, 0, -30], [-0.1, 0.9, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1]])


@pytest.fixture
def tiny_bundle(tmp_path) -> Path:
    """A copy of the bundle with tiny networks; its sizes still follow ``spatial_dims``."""
    copy = tmp_path / "bundle"
    shutil.copytree(SEGMENTATION, copy, ignore=shutil.ignore_patterns("models", "eval"))
    for name in ("train.json", "inference.json"):
        path = copy / "configs" / name
        content = json.loads(path.read_text())
        content |= dict.fromkeys(("image_size", "roi_size"), "$[16] * @spatial_dims") | {"class_names": CLASSES}
        for key, value in TINY.items():
            section, _, last = key.partition("#")
            if last and section in content:
                content[section][last] = value
        if name == "train.json":
            content |= {"max_epochs": 2, "batch_size": 4, "epoch_size": 0}
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
        assert (SEGMENTATION / name).is_file(), name


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_metadata_and_network_are_verified(spatial_dims, tmp_path):
    metadata = json.loads((SEGMENTATION / "configs/metadata.json").read_text())
    for side in ("inputs", "outputs"):
        for entry in metadata["network_data_format"][side].values():
            entry["spatial_shape"] = entry["spatial_shape"][:1] * spatial_dims if spatial_dims == 2 else [32] * 3
    meta = tmp_path / "metadata.json"
    meta.write_text(json.dumps(metadata))
    schema = tmp_path / SCHEMA.name
    shutil.copy(SCHEMA, schema)
    bundle_command("verify_metadata", "--meta_file", str(meta), "--filepath", str(schema), cwd=SEGMENTATION)
    for config in ("train", "inference"):
        files = ("--meta_file", str(meta), "--config_file", f"configs/{config}.json")
        dims = ("--spatial_dims", str(spatial_dims))
        bundle_command("verify_net_in_out", "network_def", *files, *dims, cwd=SEGMENTATION)


@pytest.mark.parametrize("config", ["configs/train.json", LARGE], ids=["small", "large"])
def test_properties_that_fl_and_label_tools_need(config, tiny_bundle, tmp_path):
    names = json.loads(config.replace("'", '"')) if "[" in config else [config]
    workflow = ConfigWorkflow(
        config_file=[str(tiny_bundle / name) for name in names],
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(write_mask_site(tmp_path / "a").parent),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.trainer.network is workflow.evaluator.network


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_train_evaluate_and_infer_from_the_command_line(spatial_dims, tiny_bundle, tmp_path):
    folder = write_mask_site(tmp_path / "a", shape=SHAPES[spatial_dims], affine=AFFINE).parent
    dims = ("--spatial_dims", str(spatial_dims), "--bundle_root", ".")
    data = ("--dataset_dir", str(folder), *dims)
    output = bundle_command("run", "--config_file", "configs/train.json", *data, cwd=tiny_bundle)
    assert "Epoch[2]" in output or "Epoch: 2/2" in output
    evaluate = "['configs/train.json','configs/evaluate.json']"
    bundle_command("run", "--config_file", evaluate, *data, cwd=tiny_bundle)
    metrics = (tiny_bundle / "eval/metrics.csv").read_text()
    assert all(name in metrics for name in ("dice_mean", "dice_grey_block", "dice_bright_block"))

    images = ("--dataset_dir", str(folder / "images"), *dims)
    bundle_command("run", "--config_file", "configs/inference.json", *images, cwd=tiny_bundle)
    files = sorted((tiny_bundle / "predictions").iterdir())
    assert len(files) == 8
    for file in files:
        mask = nibabel.load(file)
        assert mask.shape == SHAPES[spatial_dims]
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2}
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)


def test_the_large_role_trains_from_the_command_line(tiny_bundle, tmp_path):
    data = ("--dataset_dir", str(write_mask_site(tmp_path / "a").parent), "--bundle_root", ".")
    bundle_command("run", "--config_file", LARGE, *data, cwd=tiny_bundle)
    assert (tiny_bundle / "models/model.pt").is_file()


def test_multi_gpu_config_trains_with_two_gloo_processes(tiny_bundle, tmp_path):
    folder = write_mask_site(tmp_path / "a", training=8, validation=4).parent
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


class Threshold(torch.nn.Module):
    """A network that says what the sites' blocks are, from standardised intensities."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dark, bright = -0.12, 1.2
        grey = (image > dark) & (image <= bright)
        return torch.cat([image <= dark, grey, image > bright], 1).float() * 9


@pytest.mark.parametrize("shape", [(40, 52), (40, 52, 1), (24, 40, 33)], ids=["2-D", "one slice", "3-D"])
def test_a_mask_comes_back_in_the_images_own_geometry(shape, tmp_path):
    """Resized, cut into windows, put together, resized back: the blocks are where they were."""
    folder = write_mask_site(tmp_path / "a", training=1, validation=0, testing=0, shape=shape, affine=AFFINE).parent
    dims = 2 if 1 in shape else len(shape)
    workflow = ConfigWorkflow(
        config_file=str(SEGMENTATION / "configs/inference.json"),
        workflow_type="inference",
        logging_file=False,
        dataset_dir=str(folder / "images"),
        output_dir=str(tmp_path / "out"),
        spatial_dims=dims,
        channel_dim=-1 if 1 in shape else "no_channel",
        image_size=[48] * dims,
        roi_size=[32] * dims,
        network_def=Threshold(),
        handlers=[],
    )
    workflow.initialize()
    workflow.run()
    (file,) = (tmp_path / "out").iterdir()
    mask = nibabel.load(file)
    truth = nibabel.load(folder / "masks/training-0.nii")
    np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-5)
    expected = np.asarray(truth.dataobj).reshape(shape[:dims])
    assert (np.asarray(mask.dataobj) == expected).mean() > 0.93  # all but the blocks' edges


def test_colour_pictures_are_segmented(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 52, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "cell.png")
    workflow = ConfigWorkflow(
        config_file=str(SEGMENTATION / "configs/inference.json"),
        workflow_type="inference",
        logging_file=False,
        dataset_dir=str(tmp_path / "images"),
        output_dir=str(tmp_path / "out"),
        channel_dim=-1,
        in_channels=3,
        handlers=[],
    )
    workflow.initialize()
    workflow.run()
    (file,) = (tmp_path / "out").iterdir()
    assert nibabel.load(file).shape == (52, 40)  # x, y


@pytest.mark.parametrize("labelled", [False, True])
def test_public_flips_and_crops_move_image_knowledge_and_label_alike(labelled, tmp_path):
    datalist = write_mask_site(tmp_path / "public", training=3, validation=0, testing=0, shape=(24, 24))
    parser = ConfigParser()
    parser.read_config(str(SEGMENTATION / "configs/train.json"))
    parser.update({"roi_size": [16, 16], "public#image_size": [24, 24]})
    transform = parser.get_parsed_content("public#preprocessing")
    content = json.loads(datalist.read_text())
    original = np.asarray(nibabel.load(datalist.parent / content["training"][0]["label"]).dataobj)
    item = {"image": str(datalist.parent / content["training"][0]["image"])}
    item["knowledge"] = np.stack([original == value for value in range(3)]).astype(np.float32)
    if labelled:
        item["label"] = str(datalist.parent / content["training"][0]["label"])
    seen = set()
    for seed in range(12):
        transform.set_random_state(seed)
        made = transform(dict(item))
        assert made["image"].shape == (1, 16, 16) and made["knowledge"].shape == (3, 16, 16)
        classes = made["knowledge"].argmax(0)
        brightness = [made["image"][0][classes == value].mean() for value in classes.unique()]
        assert all(low < high for low, high in itertools.pairwise(brightness))
        if labelled:
            assert torch.equal(made["label"][0].long(), classes)
        seen.add(classes.numpy().tobytes())
    assert len(seen) > 3


def test_validation_covers_the_whole_image_in_windows(tmp_path):
    folder = write_mask_site(tmp_path / "a", shape=(40, 30), validation=3).parent
    workflow = ConfigWorkflow(
        config_file=str(SEGMENTATION / "configs/train.json"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(folder),
        class_names=CLASSES,
        standalone=False,
        image_size=None,
        roi_size=[16, 16],
        network_def=Threshold(),
        optimizer=None,
    )
    workflow.initialize()
    batch = next(iter(workflow.parser.get_parsed_content("train#dataloader")))
    assert batch["image"].shape[1:] == batch["label"].shape[1:] == (1, 16, 16)
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    assert evaluator.state.output["pred"].shape[2:] == (40, 30)
    assert evaluator.state.metrics["dice_mean"] > 0.9


def test_a_site_with_few_images_draws_each_several_times_in_an_epoch(tmp_path):
    folder = write_mask_site(tmp_path / "a", training=4).parent
    parser = ConfigParser()
    parser.read_config(str(SEGMENTATION / "configs/train.json"))
    parser.update({**TINY, "dataset_dir": str(folder), "epoch_size": 10, "class_names": CLASSES})
    loader = parser.get_parsed_content("train#dataloader")
    assert loader.generator is loader.sampler.generator  # so that a round's seed decides the order
    drawn = []
    for _ in range(2):
        loader.generator.manual_seed(5)
        drawn.append(list(loader.sampler))
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0][:4]) == sorted(drawn[0][4:8]) == [0, 1, 2, 3] and len(drawn[0]) == 10
    assert sum(len(batch["image"]) for batch in loader) == 10
    parser["epoch_size"] = 0
    parser.parse(True)
    assert sum(len(batch["image"]) for batch in parser.get_parsed_content("train#dataloader")) == 4


def test_resized_masks_lie_where_their_resized_images_lie(tmp_path):
    columns = np.repeat(np.arange(100, dtype=np.uint8)[:, None], 100, axis=1)  # every pixel holds its place
    for name in ("image", "label"):
        nibabel.save(nibabel.Nifti1Image(columns, np.eye(4)), tmp_path / f"{name}.nii")
    parser = ConfigParser()
    parser.read_config(str(SEGMENTATION / "configs/train.json"))
    parser["num_classes"] = 100
    prepare = parser.get_parsed_content("validate#preprocessing")
    label = prepare({name: str(tmp_path / f"{name}.nii") for name in ("image", "label")})["label"][0, :, 0]
    centres = (torch.arange(64) + 0.5) * 100 / 64 - 0.5
    assert abs(float((label - centres).mean())) < 0.01  # pixels of the image


def test_shipped_weights_fit_and_the_torchscript_answers_the_same():
    parser = ConfigParser()
    parser.read_config(str(SEGMENTATION / "configs/inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    state = torch.load(SEGMENTATION / "models/model.pt", weights_only=True)
    network.load_state_dict(state)
    assert not any(isinstance(module, _BatchNorm) for module in network.modules())
    script = torch.jit.load(SEGMENTATION / "models/model.ts").eval()
    image = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(script(image), network(image))
    assert (SEGMENTATION / "models/model.pt").stat().st_size < 5_000_000


def test_inference_on_a_folder_without_images_is_an_error(tmp_path):
    check_inference_on_a_folder_without_images(SEGMENTATION, tmp_path)


def test_inference_names_only_monai_and_torch():
    assert "fedhelp_med" not in (SEGMENTATION / "configs/inference.json").read_text()


def test_train_and_inference_describe_the_same_network_and_input():
    train, inference = (json.loads((SEGMENTATION / f"configs/{n}.json").read_text()) for n in ("train", "inference"))
    for key in (
        "network_def",
        "class_names",
        "spatial_dims",
        "in_channels",
        "channel_dim",
        "image_size",
        "roi_size",
    ):
        assert train[key] == inference[key], key
    prepared = train["train"]["preprocessing"]["transforms"][2:5]  # after the loader and the check of what it loaded
    assert prepared == inference["preprocessing"]["transforms"][1:4]
    for key in ("roi_size", "overlap"):
        assert train["validate"]["inferer"][key] == inference["inferer"][key]
