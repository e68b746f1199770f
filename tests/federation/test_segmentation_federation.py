"""Federations of the segmentation bundle: guided, distilled, tested; and masks that do not fit are named."""

import csv
import json
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from mask_sites import CLASSES, SEGMENTATION, TINY, write_mask_site
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from safetensors.torch import load_file

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.task import task_constants
from fedhelp_med.foundation import PublicKnowledge, acquire, load_local_model, train_stand_in
from fedhelp_med.methods.server_steps import pooled_score

pytestmark = pytest.mark.integration

METRICS = {"dice_mean", "dice_grey_block", "dice_bright_block"}
SITES = (("clinic-a", "small", 3), ("clinic-b", "small", 3), ("hospital-a", "large", 6))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three sites, an unlabelled public set and the ledger of a stand-in that learned the blocks elsewhere."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, _, training) in enumerate(SITES):
        write_mask_site(folder / "sites" / name, training=training, seed=seed)
    public = write_mask_site(folder / "public", training=12, validation=0, testing=0, seed=50, labelled=False)
    known = write_mask_site(folder / "foundation", training=12, validation=4, testing=0, seed=60)
    model = train_stand_in(known, folder / "model", seed=0, steps=60, batch_size=6, threads=1)
    acquire(public, load_local_model(model), folder / "knowledge.sqlite")
    return folder


@pytest.fixture
def federation_of(data, tmp_path):
    """Write the federation file; keywords change its keys."""

    def write(**changes) -> Path:
        content = {
            "name": "blocks",
            "seed": 3,
            "rounds": 2,
            "bundle": "fedhelp_segmentation",
            "overrides": TINY,
            "public": {"data": str(data / "public/datalist.json")},
            "foundation": {"ledger": str(data / "knowledge.sqlite")},
            "sites": [
                {"name": name, "role": role, "data": str(data / "sites" / name / "datalist.json")}
                for name, role, _ in SITES
            ],
        } | changes
        path = tmp_path / "federation.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return write


def test_the_stand_in_and_its_maps(data):
    description = json.loads((data / "model/foundation.json").read_text())
    assert description["kind"] == "mask logits" and description["classes"] == list(CLASSES)
    assert description["provenance"]["validation"]["dice_mean"] > 0.9
    knowledge = PublicKnowledge(data / "public/datalist.json", data / "knowledge.sqlite")
    assert (knowledge.channels, knowledge.spatial_size) == (3, (16, 16))
    for item in knowledge.items:
        truth = np.asarray(nibabel.load(item["image"].replace("images", "masks")).dataobj)
        assert (item["knowledge"].argmax(0) == truth).mean() > 0.9


def test_constants_follow_from_the_images(federation_of):
    constants = task_constants(load_federation(federation_of(overrides={"batch_size": 4})))
    assert constants == {
        "class_names": list(CLASSES),
        "in_channels": 1,
        "channel_dim": "no_channel",
        "image_size": [16, 16],
    }


def test_the_paper_preset_guides_and_distils(federation_of, tmp_path):
    out = tmp_path / "run"
    workspace = run_federation(load_federation(federation_of(preset="paper")), out)
    tested = {(row.site, row.model, row.metric) for row in workspace.rows() if row.split == "testing"}
    for name, role, _ in SITES:
        models = {"global", "deployed", *(("surrogate",) if role == "small" else ("proxy", "large"))}
        assert {(name, model, metric) for model in models for metric in METRICS} <= tested
    terms = [event["sites"] for event in workspace.events() if event["event"] == "round"]
    assert all(sites["clinic-a"]["loss_terms"]["guidance"] > 0 for sites in terms)
    assert all(sites["hospital-a"]["loss_terms"]["forward"] > 0 for sites in terms)
    assert all(sites["hospital-a"]["loss_terms"]["ranking"] >= 0 for sites in terms)
    with (out / "sites/clinic-a/studies/deployed.csv").open() as file:
        header, *lines = csv.reader(file)
    assert header == ["study", "dice_grey_block", "dice_bright_block"] and len(lines) == 2
    deployed = {row.metric: row.value for row in workspace.final() if (row.site, row.model) == ("clinic-a", "deployed")}
    for column, name in enumerate(header[1:], 1):
        assert np.mean([float(line[column]) for line in lines]) == pytest.approx(deployed[name], abs=1e-5)


def test_weights_of_public_images_reach_the_surrogates(data, federation_of, tmp_path):
    sites = [{"name": name, "role": "small", "data": str(data / "sites" / name / "datalist.json")}
             for name in ("clinic-a", "clinic-b")]  # fmt: skip
    guidance, states = {}, {}
    for weights in ("equal", "class", "nearness"):
        path = federation_of(preset="paper", settings={"guidance_weights": weights}, rounds=1, sites=sites)
        workspace = run_federation(load_federation(path), tmp_path / weights)
        (event,) = (event for event in workspace.events() if event["event"] == "round")
        guidance[weights] = event["sites"]["clinic-a"]["loss_terms"]["guidance"]
        states[weights] = load_file(tmp_path / weights / "global/round-0001/model.safetensors")
    assert all(value > 0 for value in guidance.values()) and len(set(guidance.values())) == 3
    for one, other in combinations(states.values(), 2):
        assert max(float((one[key] - other[key]).abs().max()) for key in one) > 1e-4


def test_the_recommended_preset_opens_its_gate_and_warms_up(federation_of, tmp_path):
    settings = {"warm_start": 60, "large_warm_start": 40}
    path = federation_of(settings=settings, overrides={**TINY, "epoch_size": 8})  # images drawn twice count once
    workspace = run_federation(load_federation(path), tmp_path / "run")
    (gate,) = (event for event in workspace.events() if event["event"] == "gate")
    assert gate["open"]
    pixels = 16 * 16
    counts = gate["counts"]
    assert {name: sum(there for _, there in site) for name, site in counts.items()} == {
        name: training * pixels for name, _, training in SITES
    }
    assert gate["score"] == pytest.approx(pooled_score(counts), abs=1e-4) and gate["score"] > 0.6
    deployed = {
        row.site: row.value for row in workspace.final() if (row.model, row.metric) == ("deployed", "dice_mean")
    }
    assert deployed["hospital-a"] > 0.7  # two epochs on six images reach nothing without the public knowledge


def test_public_masks_without_a_foundation_model_guide_too(data, federation_of, tmp_path):
    changes = {"public": {"data": str(data / "foundation/datalist.json")}, "foundation": None, "rounds": 1}
    workspace = run_federation(load_federation(federation_of(preset="paper", **changes)), tmp_path / "run")
    (event,) = (event for event in workspace.events() if event["event"] == "round")
    assert event["sites"]["clinic-a"]["loss_terms"]["guidance"] > 0
    settings = {"warm_start": 3, "large_warm_start": 2, "gate": -1}
    path = federation_of(settings=settings, **changes)
    workspace = run_federation(load_federation(path), tmp_path / "recommended")
    assert [event["event"] for event in workspace.events()][:3] == ["warm_start", "gate", "round"]
    assert workspace.complete


def test_volumes_are_segmented_by_three_dimensional_networks(federation_of, tmp_path):
    sites = []
    for seed, (name, role, _) in enumerate(SITES[1:]):
        path = write_mask_site(tmp_path / name, training=2, seed=seed, shape=(20, 18, 22))
        sites.append({"name": name, "role": role, "data": str(path)})
    overrides = {**TINY, "spatial_dims": 3, "image_size": [16, 16, 18], "roi_size": [16, 16, 16]}
    changes = {"sites": sites, "overrides": overrides, "public": None, "foundation": None, "rounds": 1}
    workspace = run_federation(load_federation(federation_of(preset="paper", **changes)), tmp_path / "run")
    assert {row.metric for row in workspace.final()} == METRICS


@pytest.mark.parametrize("configs", [["train"], ["train", "train_large"]], ids=["small", "large"])
def test_stock_monai_algo_executes_both_roles(configs, data, tmp_path):
    overlay = tmp_path / "overlay.json"
    settings = {**TINY, "standalone": False, "dataset_dir": str(data / "sites/clinic-a"), "class_names": CLASSES}
    settings |= {"public_datalist": str(data / "public/datalist.json"), "ledger": str(data / "knowledge.sqlite")}
    overlay.write_text(json.dumps(settings))
    files = [*(f"configs/{name}.json" for name in configs), str(overlay)]
    algo = MonaiAlgo(
        str(SEGMENTATION),
        local_epochs=2,
        send_weight_diff=False,
        config_train_filename=files,
        config_evaluate_filename=files,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: "clinic-a"})
    before = {key: tensor.clone() for key, tensor in algo.trainer.network.state_dict().items()}
    algo.train(ExchangeObject(weights=before))
    after = algo.get_weights().weights
    assert set(after) == set(before)
    assert not torch.equal(torch.as_tensor(after["final_conv.weight"]), before["final_conv.weight"])
    assert set(algo.evaluate(ExchangeObject(weights=after)).metrics) == METRICS


# What does not fit is said before anything is written


def spoil(data: Path, tmp_path: Path, change) -> list[dict]:
    """One site whose datalist or first mask was changed."""
    path = write_mask_site(tmp_path / "spoilt")
    content = json.loads(path.read_text())
    change(content, path.parent / content["training"][0]["label"])
    path.write_text(json.dumps(content))
    return [
        {"name": "clinic-a", "role": "small", "data": str(data / "sites/clinic-a/datalist.json")},
        {"name": "spoilt", "role": "small", "data": str(path)},
    ]


def without_masks(content: dict, _: Path) -> None:
    for split in ("training", "validation", "testing"):
        for item in content[split]:
            item["label"] = 1


def of_other_values(_: dict, mask: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((16, 16), 255, np.uint8), np.eye(4)), mask)


def of_another_size(_: dict, mask: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 15), np.uint8), np.eye(4)), mask)


def of_another_place(content: dict, mask: Path) -> None:
    image = mask.parents[1] / content["training"][0]["image"]
    for path, affine in ((image, np.diag([2.0, 2, 2, 1])), (mask, np.diag([2.0, -2, 2, 1]))):
        nibabel.save(nibabel.Nifti1Image(nibabel.load(path).get_fdata().astype(np.uint8), affine), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_place, r"spoilt.*lies elsewhere than its image \(another affine, corners 60 mm apart\)"),
        (without_masks, "labels of clinic-a are masks, those of spoilt are class indices or missing"),
        (of_other_values, r"spoilt.*holds the values 255; write class indices 0 to 2"),
        (of_another_size, r"spoilt.*has the shape \(16, 15\), its image \(16, 16\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(data, federation_of, tmp_path, change, message):
    path = federation_of(sites=spoil(data, tmp_path, change))
    with pytest.raises(InputError, match=message):
        run_federation(load_federation(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masks_without_declared_classes_are_refused(data, federation_of, tmp_path):
    path = write_mask_site(tmp_path / "unnamed")
    content = json.loads(path.read_text())
    del content["labels"]
    path.write_text(json.dumps(content))
    sites = [{"name": "unnamed", "role": "small", "data": str(path)}]
    with pytest.raises(InputError, match="does not name the classes of its masks"):
        run_federation(load_federation(federation_of(sites=sites)), tmp_path / "run")


def test_the_bundle_has_to_be_of_the_task(federation_of, tmp_path):
    federation = load_federation(federation_of(bundle="fedhelp_classification", overrides={}))
    with pytest.raises(
        InputError, match="fedhelp_classification learns from class indices, but the sites' labels are masks"
    ):
        run_federation(federation, tmp_path / "run")


def test_a_network_that_answers_once_is_refused(federation_of, tmp_path):
    target = {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    overrides = {**TINY, "image_size": [32, 32], "roi_size": [32, 32]}
    roles = {"small": {"network": target, "head": "class_layers.out"}}
    federation = load_federation(federation_of(roles=roles, overrides=overrides))
    with pytest.raises(InputError, match="take a network that answers each position"):
        run_federation(federation, tmp_path / "run")
