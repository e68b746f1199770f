"""A classifier's metrics: values by hand, an area under the curve counted pair by pair, and their several callers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedhelp_med.federation.deployment import scores
from fedhelp_med.foundation.quality import class_quality
from fedhelp_med.foundation.standin_tasks import ClassTask
from fedhelp_med.handlers import class_probabilities
from fedhelp_med.metrics import (
    accuracy,
    auc,
    balanced_accuracy,
    chance_corrected,
    log_odds,
    mean_recall,
    one_against_rest_auc,
    recognised,
)


def two_classes(*scores: float) -> Tensor:
    """Logits ``N, 2`` whose difference is the score."""
    scored = torch.tensor(scores)
    return torch.stack([-scored / 2, scored / 2], 1)


def pair_count(scores: Tensor, positive: Tensor) -> float:
    """The share of (positive, negative) pairs in the right order; a tie counts one half (Hanley & McNeil 1982)."""
    pairs = [(p, n) for p in scores[positive].tolist() for n in scores[~positive].tolist()]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


# Accuracy


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 4.0, 4.0]])
    assert accuracy(logits, torch.tensor([0, 2, 1, 1])) == 0.75


def test_balanced_accuracy_by_hand() -> None:
    # Class 0: 2 of 4 recognised, class 1: 1 of 1; the accuracy would be 3/5
    logits, labels = two_classes(-1, -1, 1, 1, 1), torch.tensor([0, 0, 0, 0, 1])
    assert balanced_accuracy(logits, labels) == pytest.approx((2 / 4 + 1) / 2)
    assert accuracy(logits, labels) == pytest.approx(3 / 5)


def test_balanced_accuracy_is_over_the_classes_that_occur() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    assert balanced_accuracy(logits, torch.tensor([0, 2, 2])) == pytest.approx((1 + 1 / 2) / 2)  # no class 1
    assert balanced_accuracy(logits[:1], torch.tensor([0])) == 1


def test_one_channel_is_positive_above_zero() -> None:
    logits, labels = torch.tensor([[0.1], [-0.1], [3.0], [-3.0]]), torch.tensor([1, 0, 0, 1])
    assert accuracy(logits, labels) == 0.5
    assert balanced_accuracy(logits, labels) == 0.5


# Area under the curve


def test_auc_by_hand() -> None:
    # Positives 3 and 1, negatives 2 and 0: the pairs (3,2), (3,0), (1,0) are right, (1,2) is not
    assert auc(two_classes(3, 1, 2, 0), torch.tensor([1, 1, 0, 0])) == pytest.approx(3 / 4)


def test_a_tie_counts_one_half() -> None:
    assert auc(two_classes(1, 1), torch.tensor([1, 0])) == pytest.approx(1 / 2)
    assert auc(two_classes(1, 2, 1, 1), torch.tensor([1, 1, 0, 0])) == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)


SCORED = st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 2)), min_size=2, max_size=25)


@given(SCORED, st.booleans())
@settings(deadline=None, max_examples=60)
def test_auc_is_the_share_of_ordered_pairs(items: list[tuple[int, int]], one_channel: bool) -> None:
    scores, labels = torch.tensor([float(s) for s, _ in items]), torch.tensor([min(label, 1) for _, label in items])
    logits = scores[:, None] if one_channel else two_classes(*scores.tolist())
    if len(set(labels.tolist())) == 1:
        assert math.isnan(auc(logits, labels))
    else:
        assert auc(logits, labels) == pytest.approx(pair_count(scores, labels == 1))


@given(SCORED, st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_auc_of_several_classes_is_the_mean_of_one_against_the_rest(items: list[tuple[int, int]], seed: int) -> None:
    labels = torch.tensor([label for _, label in items])
    logits = torch.randn(len(items), 3, generator=torch.Generator().manual_seed(seed))
    occurring = [c for c in range(3) if 0 < (labels == c).sum() < len(labels)]
    areas = [pair_count(logits.double().softmax(1)[:, c], labels == c) for c in occurring]
    if areas:
        assert auc(logits, labels) == pytest.approx(sum(areas) / len(areas))
    else:
        assert math.isnan(auc(logits, labels))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_has_no_area(channels: int, label: int) -> None:
    assert math.isnan(auc(torch.randn(5, channels), torch.full((5,), label)))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_certain_answers_keep_their_order(channels: int) -> None:
    scores, labels = torch.tensor([90.0, 60.0, 45.0, -45.0, -60.0]), torch.tensor([1, 0, 0, 1, 0])
    expected = pair_count(scores, labels == 1)  # 4 of 6; of probabilities, three of which round to 1, 3 of 6
    if channels == 3:  # of classes 0 and 2; class 1 is out of the question
        logits, labels = torch.stack([-scores / 2, torch.full((5,), -1e3), scores / 2], 1), 2 * labels
    else:
        logits = scores[:, None] if channels == 1 else two_classes(*scores.tolist())
    assert auc(logits, labels) == pytest.approx(expected)


# Counts


def test_recognised_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 4.0, 4.0]])
    counts = recognised(logits, torch.tensor([0, 2, 0, 0]))
    assert counts.tolist() == [[2, 3], [0, 0], [1, 1]]  # of three images of class 0 two, of class 2 the one


def test_recognised_voxels_are_counted_one_by_one() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 1, 4, 5))
    counts = recognised(logits, labels)
    for label in range(3):
        present = labels[:, 0] == label
        assert counts[label].tolist() == [(present & (logits.argmax(1) == label)).sum(), present.sum()]


@given(SCORED, st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_counts_are_what_the_balanced_accuracy_is_made_of(items: list[tuple[int, int]], seed: int) -> None:
    labels = torch.tensor([label for _, label in items])
    logits = torch.randn(len(items), 3, generator=torch.Generator().manual_seed(seed))
    counts = recognised(logits, labels)
    recalls = [right / present for right, present in counts.tolist() if present]
    assert sum(recalls) / len(recalls) == pytest.approx(balanced_accuracy(logits, labels))
    assert counts.sum(0)[1] == len(labels)


# One home


def test_all_callers_keep_the_order_of_probabilities_that_round_to_one() -> None:
    # Differences 90 (positive), 60, 44 and -44: all but the last have the probability 1.0 in float64.
    logits = torch.tensor([[-45.0, 45.0], [-30.0, 30.0], [-22.0, 22.0], [22.0, -22.0]])
    labels = torch.tensor([1, 0, 0, 0])
    studies = class_probabilities(logits, labels)
    assert studies[:3, 2].tolist() == [1, 1, 1]
    once = torch.ones(1, 4, dtype=torch.float64)
    found = {
        "evaluator": auc(logits, labels),
        "deployment": scores(("label", "p(a)", "p(b)"), studies, once).item(),
        "comparison": one_against_rest_auc(studies[:, 1:].numpy(), studies[:, 0].numpy(), once.numpy()).item(),
        "foundation model": class_quality(logits, labels).auc,
        "stand-in": ClassTask().measure(logits, labels)["auc"],
    }
    assert found == dict.fromkeys(found, 1.0)


def test_log_odds_by_hand() -> None:
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=torch.float64)
    expected = (probabilities / (1 - probabilities)).log()
    for column in range(3):
        torch.testing.assert_close(log_odds(probabilities.log() + 4, column), expected[:, column])
    assert log_odds(torch.tensor([[2.0], [-1.0]]), 0).tolist() == [2, -1]


def test_the_mean_recall_by_hand() -> None:
    assert mean_recall([(9, 10), (0, 0), (1, 2)]) == pytest.approx((0.9 + 0.5) / 2)  # a class that is absent
    assert math.isnan(mean_recall([(0, 0), (0, 0)])) and math.isnan(mean_recall([]))


@pytest.mark.parametrize(
    ("balanced", "classes", "score"), [(0.5, 2, 0), (1, 2, 1), (0, 2, -1), (1 / 3, 3, 0), (0.6, 4, (0.6 - 0.25) / 0.75)]
)
def test_chance_is_zero_and_perfection_one(balanced: float, classes: int, score: float) -> None:
    assert chance_corrected(balanced, classes) == pytest.approx(score)
