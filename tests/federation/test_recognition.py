"""The counts behind the zero-shot gate: what is told apart counts, not where the scores lie."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fedhelp_med.federation.recognition import count_by_class


def passes(logits: Tensor, labels: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    return lambda: zip(logits.split(2), labels.split(2), strict=True)


def test_a_shift_of_all_scores_changes_nothing() -> None:
    # Class 1 is ahead by 1 where it is, behind by 1 where it is not; image 2 is wrong either way.
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 0, 1])
    expected = [(2, 3), (2, 2)]
    assert count_by_class(passes(logits, labels)) == expected
    assert count_by_class(passes(logits + torch.tensor([0.0, 50.0]), labels)) == expected


@pytest.mark.parametrize("classes", [2, 3])
def test_where_there_is_one_class_the_scores_are_taken_as_they_are(classes: int) -> None:
    labels = torch.ones(5, dtype=torch.int64)
    logits = torch.randn(5, classes)
    logits[:, 1] = logits.max(1).values + 0.1
    logits[4] = -logits[4]  # one is wrong
    assert count_by_class(passes(logits, labels))[1] == (4, 5)


@pytest.mark.parametrize(("label", "right"), [(0, 0), (1, 1)])
def test_one_image_counts_as_the_network_says(label: int, right: int) -> None:
    counts = count_by_class(passes(torch.tensor([[-1.0, 1.0]]), torch.tensor([label])))
    assert counts[label] == (right, 1) and counts[1 - label] == (0, 0)


def test_of_masks_positions_count() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0] = 3.0  # class 1 in the first row, which is right at one of its two positions
    labels = torch.tensor([[[[1, 0], [0, 0]]]])
    logits[0, 0, 1] = 3.0
    assert count_by_class(passes(logits, labels)) == [(2, 3), (1, 1)]
