"""The small and large networks: sizes, heads, shapes, and no batch normalisation in 2-D and 3-D."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedhelp_med.networks import (
    FeatureTap,
    large_classifier,
    large_segmenter,
    named_module,
    small_classifier,
    small_segmenter,
)
from fedhelp_med.networks.factories import CLASSIFIER_HEAD, SEGMENTER_HEAD

BUNDLES = Path(str(files("fedhelp_med"))) / "bundles"
Factory = Callable[[int, int, int], nn.Module]
FACTORIES: dict[str, tuple[Factory, str, int]] = {
    "small_classifier": (small_classifier, CLASSIFIER_HEAD, 20_000),
    "large_classifier": (large_classifier, CLASSIFIER_HEAD, 180_000),
    "small_segmenter": (small_segmenter, SEGMENTER_HEAD, 44_000),
    "large_segmenter": (large_segmenter, SEGMENTER_HEAD, 460_000),
}
every_factory = pytest.mark.parametrize(("make", "head", "size"), FACTORIES.values(), ids=FACTORIES)


@every_factory
@pytest.mark.parametrize(("spatial_dims", "in_channels", "classes"), [(2, 8, 2), (3, 1, 1)])
def test_a_factory_network_learns_and_has_no_batch_normalisation(
    make: Factory, head: str, size: int, spatial_dims: int, in_channels: int, classes: int
) -> None:
    network = make(spatial_dims, in_channels, classes).train()
    assert not any(isinstance(module, _BatchNorm) for module in network.modules())
    spatial = (32, 32) if spatial_dims == 2 else (16, 16, 16)
    with FeatureTap(network, head) as tap:
        logits = network(torch.randn(1, in_channels, *spatial))
    dense = head == SEGMENTER_HEAD
    assert logits.shape == (1, classes, *(spatial if dense else ()))
    assert torch.equal(named_module(network, head)(tap.features), logits)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not any(buffer.is_floating_point() for buffer in network.buffers())  # no running statistics of any kind


@every_factory
def test_a_factory_network_is_as_large_as_its_docstring_says(make: Factory, head: str, size: int) -> None:
    assert sum(parameter.numel() for parameter in make(2, 1, 2).parameters()) == pytest.approx(size, rel=0.1)
    assert f"{size:,} parameters in 2-D; head ``{head}``" in (make.__doc__ or "")


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("bundle", "key", "make"),
    [
        ("fedhelp_classification", "network_def", small_classifier),
        ("fedhelp_classification", "large_network_def", large_classifier),
        ("fedhelp_segmentation", "network_def", small_segmenter),
        ("fedhelp_segmentation", "large_network_def", large_segmenter),
    ],
)
def test_a_bundles_network_is_the_factorys(bundle: str, key: str, make: Factory, spatial_dims: int) -> None:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs" / "train.json"))
    parser.update({"spatial_dims": spatial_dims, "in_channels": 3, "num_classes": 4})
    states = [network.state_dict() for network in (parser.get_parsed_content(key), make(spatial_dims, 3, 4))]
    own, factory = ({name: tuple(value.shape) for name, value in state.items()} for state in states)
    assert list(own.items()) == list(factory.items())  # in the same order, so that a seed gives the same weights


@pytest.mark.parametrize("make", [factory for factory, *_ in FACTORIES.values()], ids=FACTORIES)
def test_two_calls_share_nothing_and_a_seed_repeats_one(make: Factory) -> None:
    torch.manual_seed(1)
    one, other = make(2, 1, 2), make(2, 1, 2)
    torch.manual_seed(1)
    again = make(2, 1, 2)
    own = {parameter.data_ptr() for parameter in one.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in other.parameters())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
