"""The auxiliary head: the head's shape, another channel count, nothing shared with the original."""

import pytest
import torch
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.networks import FeatureTap, auxiliary_head

FEATURES = {"flat": (2, 6), "2d": (2, 6, 5, 5), "3d": (1, 6, 4, 4, 4)}
HEADS: dict[str, tuple[nn.Module, str]] = {
    "Linear": (nn.Linear(6, 3), "flat"),
    "Linear without bias": (nn.Linear(6, 3, bias=False), "flat"),
    "Linear layers": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)), "flat"),
    "Conv2d": (nn.Conv2d(6, 3, 1), "2d"),
    "Conv2d with all options": (nn.Conv2d(6, 3, 3, 2, 2, dilation=2, groups=3, padding_mode="reflect"), "2d"),
    "Conv2d same": (nn.Conv2d(6, 3, 3, padding="same", bias=False), "2d"),
    "Conv3d": (nn.Conv3d(6, 3, 3, padding=1), "3d"),
    "ConvTranspose2d": (nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, output_padding=1), "2d"),
    "ConvTranspose3d": (nn.ConvTranspose3d(6, 3, 2, stride=2), "3d"),
    "norm, activation, convolution": (nn.Sequential(nn.GroupNorm(2, 6), nn.PReLU(), nn.Conv2d(6, 3, 1)), "2d"),
    "pooling behind": (nn.Sequential(nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "2d"),
    "nested": (nn.Sequential(nn.Sequential(nn.Conv3d(6, 4, 1), nn.ReLU()), nn.Sequential(nn.Conv3d(4, 3, 1))), "3d"),
}
every_head = pytest.mark.parametrize(("head", "kind"), HEADS.values(), ids=HEADS)


class Network(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(features))
        return logits


@every_head
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_auxiliary_head_differs_in_its_channels_only(head: nn.Module, kind: str, channels: int) -> None:
    network, features = Network(head), torch.randn(FEATURES[kind])
    with FeatureTap(network, "head") as tap:
        expected = network(features).shape
    logits = auxiliary_head(network, "head", channels)(tap.features)
    assert logits.shape == (expected[0], channels, *expected[2:])
    assert torch.isfinite(logits).all()


@every_head
def test_the_auxiliary_head_shares_nothing_and_starts_anew(head: nn.Module, kind: str) -> None:
    network = Network(head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(2, 3)  # as if trained: no fresh parameter looks like this
    before = {key: value.clone() for key, value in network.state_dict().items()}
    auxiliary = auxiliary_head(network, "head", 3)

    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
    assert own.isdisjoint(value.untyped_storage().data_ptr() for value in auxiliary.state_dict().values())
    assert auxiliary is not head
    assert all(parameter.abs().max() < 2 for parameter in auxiliary.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_training_the_auxiliary_head_leaves_the_network_alone() -> None:
    network = Network(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    auxiliary = auxiliary_head(network, "head", 3)
    optimizer = torch.optim.SGD(auxiliary.parameters(), lr=1.0)
    auxiliary(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_frozen_head_gets_an_auxiliary_head_that_learns() -> None:
    network = Network(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))).requires_grad_(False)
    assert all(parameter.requires_grad for parameter in auxiliary_head(network, "head", 3).parameters())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "head", [nn.Linear(6, 3), nn.Conv2d(6, 3, 1), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))], ids=repr
)
@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("meta", torch.bfloat16)])
def test_the_auxiliary_head_lies_where_the_network_lies(head: nn.Module, device: str, dtype: torch.dtype) -> None:
    network = Network(head).to(device=device, dtype=dtype)
    for value in auxiliary_head(network, "head", 2).parameters():
        assert value.device.type == device
        assert value.dtype == dtype


def test_a_seed_repeats_the_auxiliary_head() -> None:
    network, states = Network(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))), []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(auxiliary_head(network, "head", 4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_subclass_with_another_constructor_can_be_a_head() -> None:
    class PointwiseHead(nn.Conv2d):
        def __init__(self, features: int, classes: int) -> None:
            super().__init__(features, classes, kernel_size=1)

    head = auxiliary_head(Network(PointwiseHead(6, 3)), "head", 5)
    assert head(torch.randn(2, 6, 4, 4)).shape == (2, 5, 4, 4)


def test_a_weight_normalised_head_can_be_imitated() -> None:
    head = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 3, 1))
    assert auxiliary_head(Network(head), "head", 5)(torch.randn(2, 6, 4, 4)).shape == (2, 5, 4, 4)


def test_a_head_without_a_layer_that_decides_its_outputs_is_refused() -> None:
    with pytest.raises(InputError, match=r"'body' of Network is a Identity .* name the module that produces"):
        auxiliary_head(Network(nn.Linear(6, 3)), "body", 2)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"no module named 'tail'.*head"):
        auxiliary_head(Network(nn.Linear(6, 3)), "tail", 2)
