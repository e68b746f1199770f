"""The Dice coefficient of studies: values by hand, MONAI's own, absent classes, a real evaluator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.metrics import compute_dice
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import StudyDice, StudyResults, dice_metrics, dice_names, study_dice

CLASSES = ("background", "grey matter", "white matter")


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


def test_names() -> None:
    assert dice_names(CLASSES) == ["dice_grey_matter", "dice_white_matter"]
    assert dice_names(["a", "lésion (T2)"]) == ["dice_lésion__T2_"]


@pytest.mark.parametrize("classes", [("0", "a b", "a-b"), ("0", "mean")])
def test_names_that_would_collide_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="rename a class"):
        dice_names(classes)


class Answer(nn.Module):
    """Gives the image, which holds the logits already."""

    def forward(self, image: Tensor) -> Tensor:
        return image


def test_an_evaluator_reports_the_mean_and_each_class_over_studies_of_all_batches() -> None:
    labels = torch.tensor([[[[0, 1, 1, 2]]], [[[0, 0, 0, 1]]], [[[0, 0, 0, 0]]]])
    predicted = torch.tensor([[[0, 1, 2, 2]], [[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    logits = MetaTensor(logits_of(predicted, 3))
    batches = [{"image": logits[:2], "label": labels[:2]}, {"image": logits[2:], "label": labels[2:]}]
    metrics = dice_metrics(CLASSES)
    key = {"dice_mean": metrics.pop("dice_mean")}
    results = StudyResults(dice_names(CLASSES), study_dice)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=batches,
        network=Answer(),
        key_val_metric=key,
        additional_metrics=metrics,
        val_handlers=[results],
        decollate=False,
    )
    grey, white = (2 / 3 + 1) / 2, 2 * 1 / 3  # the third study has neither class; the second has no white matter
    for _ in range(2):  # a second run starts anew
        evaluator.run()
        found = evaluator.state.metrics
        assert found["dice_grey_matter"] == pytest.approx(grey)
        assert found["dice_white_matter"] == pytest.approx(white)
        assert found["dice_mean"] == pytest.approx((grey + white) / 2)
        assert evaluator.state.studies.shape == (3, 2)
    assert evaluator.state.study_columns == ("dice_grey_matter", "dice_white_matter")


def test_a_class_that_no_study_has_is_left_out_of_the_mean() -> None:
    metrics = dice_metrics(CLASSES)
    table = next(metric for metric in metrics["dice_mean"].args if isinstance(metric, StudyDice))
    label = torch.tensor([[[[0, 1]]]])
    table.update((logits_of(label[:, 0], 3), label))
    assert metrics["dice_mean"].compute() == 1.0
    assert math.isnan(metrics["dice_white_matter"].compute())
    table.reset()
    table.update((logits_of(0 * label[:, 0], 3), 0 * label))
    assert math.isnan(metrics["dice_mean"].compute())
