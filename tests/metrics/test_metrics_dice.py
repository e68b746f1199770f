"""The Dice coefficient of studies: values by hand, MONAI's own, absent classes, means."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn.functional import one_hot

from fedhelp_med.foundation.standin_tasks import MaskTask
from fedhelp_med.metrics import class_dice, mean_dice, study_dice


def logits_of(predicted: Tensor, classes: int) -> Tensor:
    """Logits ``B, C, spatial`` whose likeliest class is ``predicted`` (``B, spatial``)."""
    return one_hot(predicted, classes).movedim(-1, 1).float() * 3 - 1


def test_dice_by_hand() -> None:
    label = torch.tensor([[[[0, 0, 1, 1], [0, 2, 2, 1]]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [2, 2, 0, 0]]])
    # class 1: 2 shared, 3 predicted, 3 there; class 2: 1 shared, 2 and 2
    expected = torch.tensor([[2 * 2 / 6, 2 * 1 / 4]], dtype=torch.float64)
    torch.testing.assert_close(study_dice(logits_of(predicted, 3), label), expected)


def test_absent_classes_count_only_where_one_side_has_them() -> None:
    label = torch.tensor([[[[0, 0, 0, 1]]], [[[0, 0, 0, 1]]]])
    predicted = torch.tensor([[[0, 0, 0, 1]], [[0, 2, 0, 0]]])
    table = study_dice(logits_of(predicted, 3), label)
    assert table[0].tolist() == [1.0, pytest.approx(math.nan, nan_ok=True)]
    assert table[1].tolist() == [0.0, 0.0]  # one missed, one invented


def test_one_sigmoid_channel_is_two_classes() -> None:
    logits = torch.tensor([[[[2.0, -1.0, 0.5, -3.0]]]])
    label = torch.tensor([[[[1, 1, 0, 0]]]])
    assert study_dice(logits, label).tolist() == [[0.5]]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(2, 5), st.sampled_from([(4, 4), (3, 4, 2)]))
def test_it_is_monais_dice_where_the_label_has_the_class(seed: int, classes: int, spatial: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, *spatial, generator=random)
    label = torch.randint(0, classes, (3, 1, *spatial), generator=random)
    hot = [one_hot(indices, classes).movedim(-1, 1) for indices in (logits.argmax(1), label[:, 0])]
    reference = compute_dice(*hot, include_background=False)
    table = study_dice(logits, label)
    there = ~reference.isnan()
    torch.testing.assert_close(table[there], reference[there].double())
    found = table[~table.isnan()]
    assert ((found >= 0) & (found <= 1)).all()


def test_means_leave_out_what_is_not_defined() -> None:
    table = torch.tensor([[0.5, math.nan, math.nan], [0.7, 0.9, math.nan]], dtype=torch.float64)
    assert class_dice(table) == pytest.approx([0.6, 0.9, math.nan], nan_ok=True)
    assert mean_dice(table) == pytest.approx((0.6 + 0.9) / 2)
    assert math.isnan(mean_dice(torch.full((2, 1), math.nan)))


def test_a_stand_in_is_measured_by_the_same_dice() -> None:
    label = torch.tensor([[[[0, 0, 0, 1]]], [[[0, 0, 0, 0]]]])
    logits = logits_of(torch.tensor([[[0, 0, 1, 1]], [[0, 1, 0, 0]]]), 2)  # the second invents the class
    assert MaskTask().measure(logits, label) == {"accuracy": 6 / 8, "dice_mean": pytest.approx((2 / 3 + 0) / 2)}
    blank = torch.zeros(1, 1, 1, 4, dtype=torch.int64)
    assert MaskTask().measure(logits_of(blank[:, 0], 2), blank)["dice_mean"] is None
