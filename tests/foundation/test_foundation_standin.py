"""The stand-in learns, says what it is, repeats itself, and is not trained twice."""

import json

import nibabel
import numpy as np
import pytest
import torch
from foundation_phantoms import write_image, write_public

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation import InputSpec, PublicKnowledge, acquire, load_local_model, train_stand_in

pytestmark = pytest.mark.integration
ARGUMENTS = {"seed": 3, "steps": 30, "batch_size": 4, "threads": 1}


@pytest.fixture
def labelled(tmp_path):
    """Slabs of 16 x 16 pixels and 3 slices; those of class 1 have a bright left half."""
    random = np.random.default_rng(0)
    datalist = write_public(tmp_path / "data", range(16), validation=range(100, 108))
    content = json.loads(datalist.read_text())
    for split in ("training", "validation"):
        for index, item in enumerate(content[split]):
            item["label"] = index % 2
            voxels = random.normal(100, 20, size=(16, 16, 3)).astype(np.float32)
            voxels[:8] += 200 * item["label"]
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), datalist.parent / item["image"])
    datalist.write_text(json.dumps(content))
    return datalist


def test_it_learns_and_says_what_it_is(labelled, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    steps = []
    file = train_stand_in(labelled, tmp_path / "model", **ARGUMENTS, progress=lambda *done: steps.append(done))
    assert steps == [(step, 30) for step in range(1, 31)]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    content = json.loads(file.read_text())
    provenance = content["provenance"]
    assert "not a medical foundation model" in provenance["note"]
    assert content["name"] == "stand-in-phantoms"
    assert content["input"] == {"channels": 3, "size": [16, 16], "value_range": [0, 1]}
    assert (provenance["images"], provenance["validation_images"]) == (16, 8)
    assert {key: provenance[key] for key in ARGUMENTS} == ARGUMENTS
    assert provenance["validation"] == {"accuracy": 1, "auc": 1}

    model = load_local_model(file)
    ledger = tmp_path / "knowledge.sqlite"
    acquire(labelled, model, ledger)
    items = PublicKnowledge(labelled, ledger).items
    assert [int(item["knowledge"].argmax()) for item in items] == [item["label"] for item in items]


def test_it_repeats_itself_and_is_not_trained_twice(labelled, tmp_path):
    first = train_stand_in(labelled, tmp_path / "first", **ARGUMENTS)
    second = train_stand_in(labelled, tmp_path / "second", **ARGUMENTS)
    weights = [torch.jit.load(file.with_name("foundation.ts")).state_dict() for file in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    script = first.with_name("foundation.ts")
    written = script.stat().st_mtime_ns
    assert train_stand_in(labelled, first.parent, **ARGUMENTS) == first
    assert script.stat().st_mtime_ns == written


def test_what_changed_is_trained_anew(labelled, tmp_path):
    arguments = {**ARGUMENTS, "steps": 2}
    script = train_stand_in(labelled, tmp_path / "model", **arguments).with_name("foundation.ts")
    written = [script.stat().st_mtime_ns]

    def train_again(**changed):
        train_stand_in(labelled, script.parent, **{**arguments, **changed})
        written.append(script.stat().st_mtime_ns)

    train_again(seed=4)
    train_again(seed=4, steps=3)
    write_image(labelled.parent / "images" / "training-001.nii.gz", seed=77)
    train_again(seed=4, steps=3)
    script.write_bytes(b"damaged")
    train_again(seed=4, steps=3)
    assert len(set(written)) == 5


def test_wrong_data_is_named(labelled, tmp_path):
    content = json.loads(labelled.read_text())
    for item in content["training"]:
        item["label"] = 1
    labelled.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no training image of no lesion"):
        train_stand_in(labelled, tmp_path / "model", **ARGUMENTS)
    unlabelled = write_public(tmp_path / "unlabelled")
    with pytest.raises(InputError, match="has no class index as label"):
        train_stand_in(unlabelled, tmp_path / "model", **ARGUMENTS, input=InputSpec(1, (16, 16)))
    with pytest.raises(InputError, match=r"\(8, 8\).*16"):
        train_stand_in(unlabelled, tmp_path / "model", **ARGUMENTS)
    assert not (tmp_path / "model").exists()
