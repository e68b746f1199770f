"""The Dice coefficients of a split: their names, and a real evaluator."""

import math

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import StudyDice, StudyResults, dice_metrics, dice_names
from fedhelp_med.metrics import study_dice

CLASSES = ("background", "grey matter", "white matter")


def logits_of(predicted: Tensor, classes: int) -> Tensor:
    """Logits ``B, C, spatial`` whose likeliest class is ``predicted`` (``B, spatial``)."""
    return one_hot(predicted, classes).movedim(-1, 1).float() * 3 - 1


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
