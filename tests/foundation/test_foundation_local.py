"""Foundation models on this machine: modules, TorchScript files, MONAI bundles."""

import json

import numpy as np
import pytest
import torch
from foundation_phantoms import SPEC, CountingNetwork, make_model
from torch import nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import FoundationModel, InputSpec, LocalFoundationModel, load_local_model

BATCH = np.random.default_rng(0).random((4, *SPEC.shape), dtype=np.float32)
DESCRIPTION = {
    "name": "tiny",
    "version": "1.0",
    "classes": ["no", "yes"],
    "kind": "logits",
    "input": {"channels": 3, "size": [8, 8], "value_range": [0, 1]},
    "torchscript": "foundation.ts",
}


def test_a_module_is_a_foundation_model():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
    model = LocalFoundationModel(network, name="tiny", version="1", classes=("no", "yes"), input=SPEC)
    assert isinstance(model, FoundationModel)
    answer = model.predict(BATCH)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, model.predict(BATCH))  # dropout is off
    wanted = BATCH.reshape(4, -1) @ network[2].weight.detach().numpy().T + network[2].bias.detach().numpy()
    np.testing.assert_allclose(answer, wanted, atol=1e-6)


def test_wrong_use_is_named():
    with pytest.raises(FedHelpError, match=r"takes images of shape \(3, 8, 8\), not \(1, 8, 8\)"):
        make_model().predict(BATCH[:, :1])
    with pytest.raises(FedHelpError, match="counting failed on 4 images"):
        make_model(nn.Linear(5, 2)).predict(BATCH)
    with pytest.raises(InputError, match="kind is 'probabilities'"):
        LocalFoundationModel(nn.Flatten(), name="x", version="1", classes=(), input=SPEC, kind="probabilities")


@pytest.fixture
def described(tmp_path):
    """A foundation.json with its TorchScript."""

    def write(change=None, seed=0):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        torch.jit.trace(network, torch.from_numpy(BATCH)).save(tmp_path / "foundation.ts")
        file = tmp_path / "foundation.json"
        file.write_text(json.dumps({**DESCRIPTION, **(change or {})}), encoding="utf-8")
        return file, network

    return write


def test_torchscript_answers_as_the_module_did(described):
    file, network = described()
    for path in (file, file.parent):
        model = load_local_model(path)
        with torch.inference_mode():
            np.testing.assert_array_equal(model.predict(BATCH), network(torch.from_numpy(BATCH)).numpy())
        assert (model.name, model.classes, model.kind) == ("tiny", ("no", "yes"), "logits")
        assert model.input == InputSpec(3, (8, 8))


def test_other_weights_are_another_version(described):
    first = load_local_model(described()[0]).version
    assert first.startswith("1.0+sha256.")
    assert load_local_model(described(seed=1)[0]).version != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torchscript": "gone.ts"}, "gone.ts"),
        ({"classes": "no, yes"}, "classes is 'no, yes'"),
        ({"classes": [0, 1]}, "classes is"),
        ({"kind": "labels"}, "kind is 'labels'"),
        ({"input": 8}, "input is 8"),
        ({"input": {"channels": 3}}, "foundation.json: input lacks 'size'"),
        ({"rows_first": True}, "foundation.json: unknown key 'rows_first': a model on this machine has name, "),
        ({"knowledge": "embedding"}, "unknown key 'knowledge': .*, kind, provenance; a service says"),
    ],
)
def test_a_wrong_description_is_named(described, change, message):
    with pytest.raises(InputError, match=message):
        load_local_model(described(change)[0])


def test_missing_and_broken_pieces_are_named(described, tmp_path):
    file, _ = described()
    file.write_text(json.dumps({key: value for key, value in DESCRIPTION.items() if key != "version"}))
    with pytest.raises(InputError, match="lacks 'version'"):
        load_local_model(file)
    file.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_local_model(file)
    file.write_text("[]")
    with pytest.raises(InputError, match="holds a list"):
        load_local_model(file)
    file.write_text(json.dumps(DESCRIPTION))
    (tmp_path / "foundation.ts").write_bytes(b"not an archive")
    with pytest.raises(InputError, match=r"foundation\.ts is no TorchScript"):
        load_local_model(file)
    with pytest.raises(InputError, match="does not exist"):
        load_local_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no foundation model"):
        load_local_model(tmp_path / "empty")


CLASSIFIER = {"_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2}
CLASSIFIER |= {"init_features": 4, "growth_rate": 4, "block_config": [1, 1], "norm": "instance"}
SEGMENTER = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2}
SEGMENTER |= {"channels": [4, 8], "strides": [2]}


@pytest.fixture
def bundle(tmp_path):
    """A MONAI bundle folder with random weights."""

    def write(network=CLASSIFIER, output_format="labels", inputs=None, outputs=None, name="tiny bundle"):
        from monai.bundle import ConfigParser

        folder = tmp_path / "tiny_bundle"
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "models").mkdir(exist_ok=True)
        inference = {"device": "$torch.device('cpu')", "network_def": network, "network": "$@network_def.to(@device)"}
        (folder / "configs" / "inference.json").write_text(json.dumps(inference))
        data_format = {
            "inputs": {
                "image": {"num_channels": 3, "spatial_shape": [32, 32], "value_range": [0, 1], **(inputs or {})}
            },
            "outputs": {
                "pred": {
                    "format": output_format,
                    "num_channels": 2,
                    "channel_def": {"1": "lesion", "0": "background"},
                    **(outputs or {}),
                }
            },
        }
        metadata = {"name": name, "version": "0.3.1", "network_data_format": data_format}
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        torch.manual_seed(0)
        module = ConfigParser({"network_def": network}).get_parsed_content("network_def")
        torch.save(module.state_dict(), folder / "models" / "model.pt")
        return folder, module.eval()

    return write


@pytest.mark.parametrize(
    ("network", "output_format", "kind"), [(CLASSIFIER, "labels", "logits"), (SEGMENTER, "segmentation", "mask logits")]
)
def test_a_bundle_answers_as_its_network_does(bundle, network, output_format, kind):
    folder, module = bundle(network, output_format)
    model = load_local_model(folder)
    batch = np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        np.testing.assert_array_equal(model.predict(batch), module(torch.from_numpy(batch)).numpy())
    assert (model.name, model.classes, model.kind) == ("tiny bundle", ("background", "lesion"), kind)
    assert model.input == InputSpec(3, (32, 32))
    assert model.version.startswith("0.3.1+sha256.")


def test_weights_as_ignite_saves_them(bundle):
    folder, module = bundle()
    torch.save({"model": module.state_dict()}, folder / "models" / "model.pt")
    batch = np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        np.testing.assert_array_equal(load_local_model(folder).predict(batch), module(torch.from_numpy(batch)).numpy())


def test_a_bundle_with_another_network_is_another_version(bundle):
    first = load_local_model(bundle(SEGMENTER)[0]).version
    assert load_local_model(bundle({**SEGMENTER, "act": "relu"})[0]).version != first  # the same weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"spatial_shape": ["16*n", "16*n"]}}, "size is .'16.n'"),
        ({"outputs": {"channel_def": {"0": "image"}}}, "2 channels, but channel_def names"),
        ({"outputs": {"channel_def": None}}, "network_data_format is incomplete"),
        ({"network": {**CLASSIFIER, "_target_": "monai.networks.nets.NoSuchNet"}}, "NoSuchNet"),
    ],
)
def test_a_wrong_bundle_is_named(bundle, change, message):
    folder, _ = bundle()
    if "network" in change:
        file = folder / "configs" / "inference.json"
        file.write_text(json.dumps({"network_def": change["network"]}))
    else:
        bundle(**change)
    with pytest.raises(InputError, match=message):
        load_local_model(folder)


def test_missing_and_broken_pieces_of_a_bundle_are_named(bundle):
    folder, _ = bundle()
    weights = folder / "models" / "model.pt"
    torch.save(CountingNetwork().state_dict(), weights)
    with pytest.raises(InputError, match="does not fit network_def"):
        load_local_model(folder)
    torch.save(CountingNetwork(), weights)  # a whole pickled module
    with pytest.raises(InputError, match="holds more than weights"):
        load_local_model(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"has no models/model\.pt"):
        load_local_model(folder)
    weights.touch()
    (folder / "configs" / "inference.json").write_text("{}")
    with pytest.raises(InputError, match="no network_def"):
        load_local_model(folder)
    (folder / "configs" / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"metadata\.json cannot be read"):
        load_local_model(folder)
