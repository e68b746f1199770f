"""The mean of several networks' probabilities, as logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedhelp_med.networks import MeanOfProbabilities, balancing_offset


class Gives(nn.Module):
    """A network that answers the same logits, ``B, C[, spatial]``, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def mean_of(*logits: Tensor) -> Tensor:
    result: Tensor = MeanOfProbabilities(*map(Gives, logits))(torch.zeros(1))
    return result


def test_two_classes_by_hand() -> None:
    # (1/4, 3/4) and (1/2, 1/2): the mean is (3/8, 5/8)
    mean = mean_of(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(mean, torch.tensor([[math.log(3 / 8), math.log(5 / 8)]]))
    torch.testing.assert_close(mean.softmax(1), torch.tensor([[3 / 8, 5 / 8]]))


def test_one_channel_by_hand() -> None:
    # 3/4 and 1/2: the mean is 5/8, its logit log(5/3)
    mean = mean_of(torch.tensor([[math.log(3)]]), torch.tensor([[0.0]]))
    torch.testing.assert_close(mean, torch.tensor([[math.log(5 / 3)]]))


def test_three_networks_count_alike() -> None:
    # 0.9, 0.9, 0.3: the mean is 0.7 (the mean of logits would say 0.78)
    logits = [torch.logit(torch.tensor([[p]])) for p in (0.9, 0.9, 0.3)]
    torch.testing.assert_close(mean_of(*logits).sigmoid(), torch.tensor([[0.7]]))


@pytest.mark.parametrize("shape", [(2, 3), (2, 2), (2, 4, 5, 5), (1, 2, 3, 4, 5)])
def test_the_softmax_of_the_result_is_the_mean(shape: tuple[int, ...]) -> None:
    one, other = torch.randn(shape) * 3, torch.randn(shape) * 3
    torch.testing.assert_close(mean_of(one, other).softmax(1), (one.softmax(1) + other.softmax(1)) / 2)


@pytest.mark.parametrize("shape", [(4, 1), (2, 1, 5, 5), (1, 1, 3, 4, 5)])
def test_the_sigmoid_of_the_result_is_the_mean(shape: tuple[int, ...]) -> None:
    one, other = torch.randn(shape) * 3, torch.randn(shape) * 3
    torch.testing.assert_close(mean_of(one, other).sigmoid(), (one.sigmoid() + other.sigmoid()) / 2)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=4))
@settings(deadline=None)
def test_one_channel_and_two_logits_are_the_same_answer(values: list[float]) -> None:
    sigmoid = mean_of(*(torch.tensor([[z]]) for z in values))
    softmax = mean_of(*(torch.tensor([[0.0, z]]) for z in values))
    torch.testing.assert_close(sigmoid[:, 0], softmax[:, 1] - softmax[:, 0], atol=1e-5, rtol=1e-5)
    assert min(values) - 1e-3 <= sigmoid.item() <= max(values) + 1e-3


def test_a_single_network_passes_unchanged() -> None:
    logits = torch.randn(2, 3) * 1e5
    assert torch.equal(mean_of(logits), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_extreme_logits_stay_finite_and_keep_their_side(value: float, dtype: torch.dtype) -> None:
    certain = torch.tensor([[value]], dtype=dtype)
    mean = mean_of(certain, certain)
    assert torch.isfinite(mean).all()
    assert mean.sign().item() == math.copysign(1, value)
    mean = mean_of(*[torch.cat([torch.zeros_like(certain), certain, certain], 1)] * 2)
    assert torch.isfinite(mean).all()
    expected = [0.0, 0.5, 0.5] if value > 0 else [1.0, 0.0, 0.0]
    torch.testing.assert_close(mean.softmax(1).float(), torch.tensor([expected]))


def test_gradients_reach_every_network() -> None:
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    MeanOfProbabilities(*networks)(torch.randn(2, 4))[:, 0].sum().backward()
    assert all(network.weight.grad.abs().sum() > 0 for network in networks)


def test_the_networks_are_its_modules() -> None:
    networks = [nn.Linear(4, 3), nn.Dropout()]
    ensemble = MeanOfProbabilities(*networks).eval()
    assert not any(network.training for network in networks)
    assert len(list(ensemble.parameters())) == 2


def test_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        MeanOfProbabilities()


# Decisions for balanced classes


def test_the_balancing_offset_by_hand() -> None:
    # (2 + 1) / 20 and (16 + 1) / 20; centred
    low, high = balancing_offset([2, 16])
    assert low - high == pytest.approx(math.log(17 / 3))
    assert low + high == pytest.approx(0)
    assert balancing_offset([5, 5, 5]) == pytest.approx((0, 0, 0))
    assert all(map(math.isfinite, balancing_offset([0, 8])))


def test_a_balanced_network_recognises_the_rare_class_at_the_frequent_ones_price() -> None:
    # calibrated: p = (0.8, 0.2) where 90 % are of class 0 speaks for class 1
    logits = torch.tensor([[0.8, 0.2]]).log()
    offset = balancing_offset([89, 9])
    assert MeanOfProbabilities(Gives(logits)).forward(logits).argmax() == 0
    assert MeanOfProbabilities(Gives(logits), offset=offset)(logits).argmax() == 1


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("spatial", [(), (4, 5)])
def test_the_offset_shifts_each_class_and_keeps_the_order_of_images(channels: int, spatial: tuple[int, ...]) -> None:
    image = torch.randn(6, channels, *spatial)
    offset = [0.3, -0.5, 0.2][: max(2, channels)]
    shifted = MeanOfProbabilities(nn.Identity(), offset=offset)(image)
    difference = shifted - image
    expected = torch.tensor(offset) if channels > 1 else torch.tensor([offset[1] - offset[0]])
    torch.testing.assert_close(difference, expected.reshape(-1, *(1,) * len(spatial)).expand_as(image))


def test_the_offset_goes_to_the_networks_device() -> None:
    on_another_device = Gives(torch.zeros(2, 3, device="meta"))
    assert MeanOfProbabilities(on_another_device, offset=[0.1, 0.2, -0.3])(torch.zeros(1)).device.type == "meta"


def test_the_offset_is_no_weight() -> None:
    assert MeanOfProbabilities(nn.Identity(), offset=[0.1, -0.1]).state_dict() == {}
