"""The tap on any network's features: MONAI's networks, a user's own, 2-D and 3-D."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet, DenseNet, DenseNet121, EfficientNetBN, ResNet, SegResNet, UNet
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.networks import FeatureTap


class UsersOwn(nn.Module):
    """A network whose head is called with a keyword argument, deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh())
        self.heads = nn.ModuleDict({"task": KeywordHead(5, 3)})

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.heads["task"](features=self.body(image))
        return logits


class KeywordHead(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)


def tiny_dense_net(spatial_dims: int = 2) -> nn.Module:
    return DenseNet(spatial_dims, 1, 3, init_features=4, growth_rate=4, block_config=(1, 1))


def tiny_basic_unet(spatial_dims: int = 2) -> nn.Module:
    return BasicUNet(spatial_dims, 1, 3, features=(2, 2, 4, 4, 4, 2), norm=("group", {"num_groups": 2}))


IMAGE, VOLUME = (2, 1, 32, 32), (1, 1, 16, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "DenseNet121": (lambda: DenseNet121(2, 1, 3), "class_layers.out", IMAGE),
    "DenseNet-3d": (lambda: tiny_dense_net(3), "class_layers.out", VOLUME),
    "ResNet": (
        lambda: ResNet("basic", [1] * 4, [4] * 4, spatial_dims=2, n_input_channels=1, num_classes=3),
        "fc",
        IMAGE,
    ),
    "EfficientNet-B0": (
        lambda: EfficientNetBN("efficientnet-b0", spatial_dims=2, in_channels=1, num_classes=3, pretrained=False),
        "_fc",
        IMAGE,
    ),
    "BasicUNet": (tiny_basic_unet, "final_conv", IMAGE),
    "BasicUNet-3d": (lambda: tiny_basic_unet(3), "final_conv", VOLUME),
    "UNet": (lambda: UNet(2, 1, 3, channels=(2, 4), strides=(2,)), "model.2", IMAGE),
    "UNet-residual": (lambda: UNet(2, 1, 3, channels=(2, 4), strides=(2,), num_res_units=1), "model.2.0", IMAGE),
    "SegResNet": (
        lambda: SegResNet(
            2, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,), num_groups=4
        ),
        "conv_final",
        IMAGE,
    ),
    "user's own": (UsersOwn, "heads.task", (2, 1, 4, 4)),
}
every_network = pytest.mark.parametrize(("make", "head", "shape"), NETWORKS.values(), ids=NETWORKS)


def hooks(network: nn.Module) -> list[Any]:
    return [
        hook
        for module in network.modules()
        for registry in (
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks,
            module._backward_hooks,
        )
        for hook in registry.values()
    ]


def rest(network: nn.Module, head: str, features: Tensor) -> Tensor:
    """What the head makes of ``features``; a residual UNet has one more unit behind its transposed convolution."""
    logits: Tensor = network.get_submodule(head)(features)
    return network.get_submodule("model.2.1")(logits) if head == "model.2.0" else logits


@every_network
def test_the_head_makes_the_logits_of_the_features(
    make: Callable[[], nn.Module], head: str, shape: tuple[int, ...]
) -> None:
    network, image = make().eval(), torch.randn(shape)
    plain = network(image)
    with FeatureTap(network, head) as tap:
        logits = network(image)
    assert torch.equal(logits, plain)  # the tap only reads
    assert tap.features.shape[0] == shape[0]
    assert torch.equal(rest(network, head, tap.features), logits)
    assert hooks(network) == []


def test_features_carry_the_graph_of_the_body() -> None:
    network = UsersOwn()
    with FeatureTap(network, "heads.task") as tap:
        network(torch.randn(2, 1, 4, 4))
    tap.features.sum().backward()
    assert network.body[1].weight.grad is not None
    assert network.heads["task"].weight.grad is None


def test_features_can_be_read_inside_the_block_too() -> None:
    network = UsersOwn()
    with FeatureTap(network, "heads.task") as tap:
        network(torch.randn(2, 1, 4, 4))
        assert tap.features.shape == (2, 5)


def test_an_exception_leaves_no_hook() -> None:
    network = UsersOwn()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), FeatureTap(network, "heads.task"):
        network(torch.randn(2, 1, 3, 3))
    assert hooks(network) == []


@pytest.mark.parametrize("forwards", [0, 2])
def test_a_head_that_ran_not_exactly_once_is_an_error(forwards: int) -> None:
    network = UsersOwn()
    with FeatureTap(network, "heads.task") as tap:
        for _ in range(forwards):
            network(torch.randn(2, 1, 4, 4))
    with pytest.raises(RuntimeError, match=rf"'heads.task' ran {forwards} times .* exactly once"):
        _ = tap.features


def test_a_forward_outside_the_block_is_not_seen() -> None:
    network, image = UsersOwn(), torch.randn(2, 1, 4, 4)
    tap = FeatureTap(network, "heads.task")
    network(image)
    with tap:
        network(image)
    network(torch.zeros(7, 1, 4, 4))
    assert tap.features.shape[0] == 2


def test_a_tap_can_be_opened_again() -> None:
    network = UsersOwn()
    tap = FeatureTap(network, "heads.task")
    for size in (2, 3):
        with tap:
            network(torch.randn(size, 1, 4, 4))
        assert tap.features.shape[0] == size


@pytest.mark.parametrize("moment", ["before", "inside"])
def test_a_deep_copy_does_not_write_into_the_tap_of_its_original(moment: str) -> None:
    network = UsersOwn()
    copied = copy.deepcopy(network)
    with FeatureTap(network, "heads.task") as tap:
        if moment == "inside":
            copied = copy.deepcopy(network)
        network(torch.randn(2, 1, 4, 4))
        copied(torch.randn(3, 1, 4, 4))
    assert tap.features.shape[0] == 2


def test_a_deep_copy_taken_after_a_tap_has_no_hook() -> None:
    network = UsersOwn()
    with FeatureTap(network, "heads.task"):
        network(torch.randn(2, 1, 4, 4))
    assert hooks(copy.deepcopy(network)) == []


@pytest.mark.parametrize(
    ("make", "head"), [(tiny_dense_net, "class_layers.out"), (tiny_basic_unet, "final_conv")], ids=["script", "trace"]
)
def test_a_network_that_was_tapped_becomes_torchscript(
    make: Callable[[], nn.Module], head: str, request: pytest.FixtureRequest
) -> None:
    network, image = make().eval(), torch.randn(IMAGE)
    with FeatureTap(network, head):
        network(image)
    scripted = torch.jit.trace(network, image) if "trace" in request.node.name else torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image))


@pytest.mark.parametrize("name", ["fc", "", "heads.tasks"])
def test_an_unknown_head_is_refused_with_the_names_that_exist(name: str) -> None:
    network = UsersOwn()
    with pytest.raises(InputError) as error:
        FeatureTap(network, name)
    assert repr(name) in str(error.value)
    assert "UsersOwn" in str(error.value)
    assert "heads.task" in str(error.value)
    assert "body.2" not in str(error.value)  # a layer without parameters gives no logits
