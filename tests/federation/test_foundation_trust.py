"""A federation file's `foundation` section: calibration, trust, and a model that answers with embeddings."""

import json

import pytest
import torch
from conftest import write_site
from safetensors.torch import load_file
from torch import nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.task import site_overlay, task_constants
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation import InputSpec, LocalFoundationModel, PublicKnowledge, acquire

PUBLIC, LEDGER = {"data": "public/datalist.json"}, "knowledge.sqlite"


class Corner(nn.Module):
    """Tells the class by the brightness of the corner, or gives four features of it."""

    def __init__(self, embedding: bool) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, images):
        bright = images[:, 0, :6, :6].mean((1, 2))
        if self.embedding:
            return torch.stack([bright, bright**2, 1 - bright, torch.ones_like(bright)], 1)
        return torch.stack([torch.zeros_like(bright), 30 * (bright - 0.6)], 1)


@pytest.fixture
def federation(federation_file, tmp_path):
    """Write a federation with a public set of 12 images and a model's answers to them."""

    def write(labelled=True, embedding=False, **foundation):
        datalist = write_site(tmp_path / "public", training=12, validation=0, testing=0, seed=9, labelled=labelled)
        content = {key: value for key, value in json.loads(datalist.read_text()).items() if value != []}
        datalist.write_text(json.dumps(content | {"public": True}))
        classes, kind = (() if embedding else ("class 0", "class 1")), "embedding" if embedding else "logits"
        spec = InputSpec(1, (16, 16))
        model = LocalFoundationModel(
            Corner(embedding), name="corner", version="1", classes=classes, input=spec, kind=kind
        )
        acquire(datalist, model, tmp_path / LEDGER)
        return federation_file(rounds=1, public=PUBLIC, foundation={"ledger": LEDGER, **foundation})

    return write


def overlay_of(path):
    federation = load_federation(path)
    return site_overlay(federation, federation.sites[0], task_constants(federation))


def test_without_these_keys_nothing_is_asked_of_the_labels(federation, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhelp_med.foundation.knowledge.measure", None)  # would be called to judge
    path = federation()
    assert not [key for key in overlay_of(path) if key.startswith("public#knowledge")]
    knowledge = PublicKnowledge(tmp_path / "public/datalist.json", tmp_path / LEDGER)
    assert knowledge.trust == 1 and knowledge.quality is None


def test_they_reach_the_knowledge(federation):
    overlay = overlay_of(federation(calibrate=True))
    assert {key: overlay[key] for key in overlay if key.startswith("public#knowledge")} == {
        "public#knowledge#calibrate": True
    }
    assert overlay_of(federation(follow_quality=True))["public#knowledge#follow_quality"] is True


@pytest.mark.parametrize("key", ["calibrate", "follow_quality"])
def test_they_need_labels(federation, key):
    with pytest.raises(InputError, match=rf"foundation\.{key}: true needs labels, and .*datalist\.json has none"):
        load_federation(federation(labelled=False, **{key: True}))


def guidance(run, site="clinic-a"):
    """The mean guidance term of a site in round 1."""
    event = next(event for event in Workspace(run).events() if event["event"] == "round")
    return event["sites"][site]["loss_terms"]["guidance"]


@pytest.mark.integration
def test_a_run_learns_from_calibrated_knowledge(federation, tmp_path):
    terms = {}
    for name, keys in {"plain": {}, "judged": {"calibrate": True, "follow_quality": True}}.items():
        run_federation(load_federation(federation(**keys)), tmp_path / name)
        terms[name] = guidance(tmp_path / name)
        again = load_federation(tmp_path / name / "federation.yaml").file.foundation
        assert again.calibrate is again.follow_quality is (name == "judged")
    assert terms["plain"] != terms["judged"]


@pytest.mark.integration
@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_learns_from_embeddings(federation, tmp_path, labelled):
    run_federation(load_federation(federation(labelled=labelled, embedding=True)), tmp_path / "run")
    assert 0 < guidance(tmp_path / "run") < 2  # a cosine distance
    site = tmp_path / "run/sites/clinic-a/round-0001"
    assert load_file(site / "state.safetensors")["state/handlers/0/weight"].shape == (4, 8)  # the projection
    assert not [key for key in load_file(site / "update.safetensors") if "handlers" in key]  # it stays at the site
