"""Batch normalisation: found, named, replaced, or left standing still."""

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import DenseNet, ResNet, SegResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedhelp_med.networks import (
    batch_norm_keys,
    batch_norm_layers,
    frozen_statistics,
    group_normalized,
    local_keys,
    normalization_keys,
    small_classifier,
)


def normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False)),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
        nn.Linear(5, 2),
    )


def res_net(spatial_dims: int = 2) -> nn.Module:
    return ResNet(
        "basic",
        [1] * 4,
        [4, 4, 8, 6],
        spatial_dims=spatial_dims,
        n_input_channels=1,
        num_classes=2,
        norm=("group", {"num_groups": 4}),
    )


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


# Names


def test_layers_are_named_in_their_order() -> None:
    assert batch_norm_layers(normalised()) == ["1", "2.1", "6"]


def test_keys_are_weights_statistics_and_counters_and_nothing_else() -> None:
    assert batch_norm_keys(normalised()) == {
        *(f"1.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        *(f"2.1.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")),
        *(f"6.{key}" for key in ("weight", "bias")),
    }


def test_keys_of_a_monai_network_are_exactly_those_of_its_batch_normalisation() -> None:
    network = DenseNet(2, 1, 2, init_features=4, growth_rate=4, block_config=(1, 1))
    keys = batch_norm_keys(network)
    owners = {key: network.get_submodule(key.rpartition(".")[0]) for key in network.state_dict()}
    assert keys == {key for key, owner in owners.items() if isinstance(owner, _BatchNorm)}
    assert set(network.state_dict()) > keys > set()


def test_a_batch_normalisation_alone_has_keys_without_a_prefix() -> None:
    assert batch_norm_keys(nn.BatchNorm1d(2)) == set(nn.BatchNorm1d(2).state_dict())


def test_a_network_without_has_none() -> None:
    assert batch_norm_layers(nn.Sequential(nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4))) == []
    assert batch_norm_keys(nn.Linear(2, 2)) == frozenset()


def test_all_normalisation_is_batch_group_instance_and_layer_normalisation() -> None:
    network = nn.Sequential(
        nn.Linear(2, 4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.Sequential(nn.InstanceNorm1d(4, affine=True), nn.InstanceNorm1d(4)),
        nn.BatchNorm1d(4, track_running_stats=False),
    )
    names = {f"{layer}.{key}" for layer in ("1", "2", "3.0", "4") for key in ("weight", "bias")}
    assert normalization_keys(network) == names
    assert normalization_keys(nn.LayerNorm(4)) == {"weight", "bias"}
    assert normalization_keys(nn.Linear(2, 2)) == frozenset()


def test_all_normalisation_includes_batch_normalisation() -> None:
    assert normalization_keys(normalised()) == batch_norm_keys(normalised()) | {"3.weight", "3.bias"}


def test_what_stays_at_a_site_is_a_choice() -> None:
    network = normalised()
    assert local_keys(network, "none") == frozenset()
    assert local_keys(network, "batch-norm") == batch_norm_keys(network)
    assert local_keys(network, "normalization") == normalization_keys(network)
    factory = small_classifier(2, 1, 2)
    assert local_keys(factory, "batch-norm") == frozenset()
    assert frozenset() < local_keys(factory, "normalization") < set(factory.state_dict())


# Replaced


def test_monai_res_net_keeps_batch_normalisation_although_told_otherwise() -> None:
    assert batch_norm_layers(res_net()) != []  # when this fails, group_normalized is needed no longer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (res_net, (1, 1, 32, 32)),
        (lambda: res_net(3), (1, 1, 16, 16, 16)),
        (lambda: SegResNet(2, 4, 1, 2, norm="batch", blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16)),
        (lambda: DenseNet(3, 1, 2, init_features=4, growth_rate=3, block_config=(1, 1)), (1, 1, 16, 16, 16)),
        (normalised, (1, 1, 6, 6)),
    ],
    ids=["ResNet", "ResNet-3d", "SegResNet", "DenseNet-3d", "own"],
)
def test_no_batch_normalisation_is_left_and_the_network_still_learns(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    network = make().train()
    normal = len(batch_norm_layers(network))
    groups = sum(isinstance(module, nn.GroupNorm) for module in network.modules())
    assert group_normalized(network) is network
    assert not any(isinstance(module, _BatchNorm) for module in network.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in network.modules()) == groups + normal
    network(torch.randn(shape)).square().sum().backward()  # one image: batch normalisation would refuse in training
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_image_no_longer_depends_on_its_neighbours_in_the_batch() -> None:
    network, images = group_normalized(res_net()).train(), torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


@pytest.mark.parametrize(("channels", "groups", "expected"), [(8, 4, 4), (6, 4, 2), (5, 4, 1), (8, 16, 8)])
def test_the_groups_divide_the_channels(channels: int, groups: int, expected: int) -> None:
    network = group_normalized(nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3)), groups)
    assert (network[0].num_groups, network[0].num_channels, network[0].eps) == (expected, channels, 1e-3)


def test_a_layer_without_weights_stays_without() -> None:
    assert list(group_normalized(nn.Sequential(nn.BatchNorm1d(4, affine=False))).parameters()) == []


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("meta", torch.float32)])
def test_the_new_layers_lie_where_the_old_ones_lay(device: str, dtype: torch.dtype) -> None:
    network = group_normalized(normalised().to(device=device, dtype=dtype))
    assert all(p.device.type == device and p.dtype == dtype for p in network.parameters())


# Standing still


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_do_not_move_and_the_output_is_that_of_training(momentum: float | None) -> None:
    network = normalised().train()
    network[1].momentum = momentum
    network(torch.randn(4, 1, 6, 6))  # statistics that are no longer 0 and 1
    before, image = state(network), torch.randn(4, 1, 6, 6) * 7 + 3
    with frozen_statistics(network):
        frozen = network(image)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network[1].num_batches_tracked == 1
    assert torch.equal(frozen, network(image))  # the same batch in ordinary training,
    assert network[1].num_batches_tracked == 2  # which moves them
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])


def test_instance_statistics_do_not_move_either() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).train()
    network(torch.randn(2, 1, 6, 6))
    before, image = state(network), torch.randn(2, 1, 6, 6) * 7 + 3
    with frozen_statistics(network):
        frozen = network(image)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(frozen, network(image))
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])


def test_a_network_in_evaluation_keeps_using_its_statistics() -> None:
    network = normalised().train()
    network(torch.randn(4, 1, 6, 6))
    network.eval()
    image = torch.randn(4, 1, 6, 6)
    with frozen_statistics(network):
        frozen = network(image)
    assert torch.equal(frozen, network(image))


def test_gradients_pass_frozen_statistics() -> None:
    network = normalised().train()
    with frozen_statistics(network):
        network(torch.randn(4, 1, 6, 6))[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_exception_thaws_and_untracked_layers_stay_untracked() -> None:
    network = normalised()
    with pytest.raises(RuntimeError), frozen_statistics(network):
        network(torch.zeros(1))
    tracked = [layer.track_running_stats for layer in network.modules() if isinstance(layer, _BatchNorm)]
    assert tracked == [True, True, False]
    assert batch_norm_keys(network) == batch_norm_keys(normalised())
