"""Faster forms of a deployed network: the same answers, or a verdict from the site's own validation studies."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from fedhelp_med.export.deployed import Deployed
from fedhelp_med.export.onnx_model import open_session, write_onnx
from fedhelp_med.export.rewriting import rewritten
from fedhelp_med.export.scoring import SessionNetwork, validation_score
from fedhelp_med.export.variants import Judge, heavy_convolutions, quantise
from fedhelp_med.networks import MeanOfProbabilities, small_classifier, small_segmenter

BUNDLE = Path(__file__).parents[2] / "bundles" / "fedhelp_classification"


# The same network in other operators


def affine(network: nn.Module) -> nn.Module:
    """Make scales and shifts matter: at the start they are 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (small_classifier(2, 3, 2), (3, 32, 32)),
        (small_segmenter(2, 1, 3), (1, 32, 32)),
        (small_segmenter(3, 1, 1), (1, 16, 16, 16)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.GroupNorm(2, 4, affine=False)), (1, 8, 8)),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_rewriting_changes_no_answer(network: nn.Module, shape: tuple[int, ...], count: int) -> None:
    torch.manual_seed(0)
    members = [affine(copy.deepcopy(network)) for _ in range(count)]
    classes = members[0](torch.zeros(1, *shape)).shape[1]
    mean = MeanOfProbabilities(*members, offset=[0.3, -0.4, 0.1, 0.2][: max(classes, 2)]).eval()
    before = copy.deepcopy(mean.state_dict())
    image = 5 * torch.randn(2, *shape)
    with torch.inference_mode():
        expected, answer = mean(image), rewritten(mean)(image)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in mean.state_dict().items())


def test_extreme_logits_stay_finite() -> None:
    class Says(nn.Module):
        def __init__(self, *logits: float) -> None:
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, image: Tensor) -> Tensor:
            return self.logits.expand(len(image), -1)

    mean = MeanOfProbabilities(Says(500.0, -500.0), Says(-500.0, 500.0), Says(0.0, 0.0))
    torch.testing.assert_close(rewritten(mean)(torch.zeros(1, 1)), mean(torch.zeros(1, 1)))
    one = MeanOfProbabilities(Says(400.0), Says(300.0))
    torch.testing.assert_close(rewritten(one)(torch.zeros(1, 1)), one(torch.zeros(1, 1)))


# One network in place of several


def deployed(*networks: nn.Module, **changes: Any) -> Deployed:
    definition = {"_target_": "fedhelp_med.networks.small_classifier", "spatial_dims": 2, "in_channels": 1}
    return replace(
        Deployed(
            site="clinic",
            role="small",
            federation="test",
            names=tuple(f"network {n}" for n in range(len(networks))),
            definitions=({**definition, "out_channels": 2},) * len(networks),
            heads=("class_layers.out",) * len(networks),
            states=tuple(network.state_dict() for network in networks),
            offset=(),
            bundle=BUNDLE,
            changes={"in_channels": 1, "image_size": [16, 16]},
            metrics={},
            datalist=Path("elsewhere/datalist.json"),
        ),
        **changes,
    )


def test_the_merged_network_has_the_mean_weights() -> None:
    one, other = small_classifier(2, 1, 2), small_classifier(2, 1, 2)
    merged = deployed(one, other, offset=(0.5, -0.5)).merged()
    assert merged is not None and merged.names == ("mean of weights",)
    for key, value in merged.states[0].items():
        torch.testing.assert_close(value, (one.state_dict()[key] + other.state_dict()[key]) / 2)
    network = merged.network()
    plain = small_classifier(2, 1, 2).eval()
    plain.load_state_dict(merged.states[0])
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(network(image), plain(image) + torch.tensor([0.5, -0.5]))


def test_only_networks_of_one_kind_without_batch_normalisation_are_merged() -> None:
    network = small_classifier(2, 1, 2)
    assert deployed(network).merged() is None
    pair = deployed(network, network)
    assert pair.merged() is not None
    assert replace(pair, heads=("class_layers.out", "features")).merged() is None
    other = {**pair.definitions[0], "out_channels": 3}
    assert replace(pair, definitions=(pair.definitions[0], other)).merged() is None
    normed = {
        "_target_": "monai.networks.nets.DenseNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "init_features": 8,
        "growth_rate": 4,
        "block_config": [1, 1],
    }
    parser = pair.parser("train.json")
    parser["network_def"] = normed
    state = parser.get_parsed_content("network_def", instantiate=True).state_dict()
    assert replace(pair, definitions=(normed, normed), states=(state, state)).merged() is None


# The verdict


class Constant:
    """A session that always answers the same logits."""

    def __init__(self, *logits: float) -> None:
        self.logits = np.array([logits], np.float32)

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.repeat(self.logits, len(inputs["image"]), 0)]


def judge(score: Any = lambda network: 0.9) -> Judge:
    return Judge(SessionNetwork(Constant(0.0, 0.0)), [torch.zeros(1, 1, 4, 4)], score)


def test_a_variant_that_does_as_well_in_less_time_is_kept() -> None:
    kept, figures = judge().verdict(Constant(0.0, 0.0), 0.5)
    assert (
        kept
        and figures == "0.50 of the time, +0.00 points of validation score, probabilities differ by 0.0000 on average"
    )


def test_what_is_not_faster_worse_or_other_is_not_kept() -> None:
    variant = Constant(0.0, 0.0)
    assert not judge().verdict(variant, 0.95)[0]

    def losing(points: float) -> Judge:
        worse = iter([0.9, 0.9 - points / 100])  # the deployed one, then the variant
        return judge(lambda network: next(worse))

    assert losing(0.4).verdict(variant, 0.5)[0]
    assert losing(-3.0).verdict(variant, 0.5)[0]  # better is no fault
    kept, figures = losing(0.6).verdict(variant, 0.5)
    assert not kept and "-0.60 points" in figures
    assert not judge().verdict(Constant(0.2, 0.0), 0.5)[0]  # softmax: 0.55 for 0.5
    assert not judge(lambda network: float("nan")).verdict(variant, 0.5)[0]
    kept, reason = judge(None).verdict(variant, 0.5)
    assert not kept and "no labelled validation studies" in reason


def test_without_studies_there_is_no_score() -> None:
    assert validation_score(deployed(small_classifier(2, 1, 2))) is None


# int8


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = affine(small_classifier(2, 8, 2))
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(network, (8, 32, 32), file)
    return network, file


def test_the_heavy_convolution_of_the_small_classifier_is_its_first(exported: tuple[nn.Module, Path]) -> None:
    _, file = exported
    (name, *others) = heavy_convolutions(file, share=0.5)
    (node,) = [node for node in onnx.load(file).graph.node if node.name == name]
    assert node.input[0] == "image" and not others
    assert heavy_convolutions(file, share=1.1) == []
    assert len(heavy_convolutions(file, share=0.0)) == sum(n.op_type == "Conv" for n in onnx.load(file).graph.node)


def test_int8_answers_nearly_as_float32(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, file = exported
    studies = [torch.randn(1, 8, 32, 32) for _ in range(4)]
    quantise(file, tmp_path / "int8.onnx", studies)
    types = {value.data_type for value in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in types
    session = open_session(tmp_path / "int8.onnx")
    with torch.inference_mode():
        gap = (SessionNetwork(session)(studies[0]).softmax(1) - network(studies[0]).softmax(1)).abs().max()
    assert 0 < gap < 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert isinstance(session, onnxruntime.InferenceSession)


def test_nothing_is_quantised_without_studies(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no validation study to calibrate on"):
        quantise(exported[1], tmp_path / "int8.onnx", [])
    assert not list(tmp_path.iterdir())
