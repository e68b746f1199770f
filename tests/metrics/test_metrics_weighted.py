"""Metrics under many weightings: counted pair by pair, and as the evaluator's on repeated studies."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.metrics import (
    auc,
    balanced_accuracy,
    one_against_rest_auc,
    weighted_auc,
    weighted_balanced_accuracy,
)


def by_pairs(scores, positive, weights):
    right = total = 0.0
    for i, j in itertools.product(np.flatnonzero(positive), np.flatnonzero(~positive)):
        right += weights[i] * weights[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
        total += weights[i] * weights[j]
    return right / total if total else np.nan


studies = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12)


@settings(deadline=None)
@given(studies)
def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_as_half(rows):
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    drawn = np.stack([np.ones(len(rows)), weights.astype(float)])
    found = weighted_auc(scores.astype(float), positive, drawn)
    expected = [by_pairs(scores, positive, row) for row in drawn]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_auc_by_hand():
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert weighted_auc(scores, positive, np.ones((1, 4))) == [0.75]
    assert weighted_auc(scores, positive, np.array([[1.0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]])).tolist()[:2] == [1, 0]
    assert np.isnan(weighted_auc(scores, positive, np.array([[0.0, 0, 1, 1]]))).all()
    assert weighted_auc(np.zeros(4), positive, np.ones((1, 4))) == [0.5]


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.integers(0, 10_000))
def test_resampled_studies_give_what_the_evaluator_gives_on_them(classes, seed):
    random = np.random.default_rng(seed)
    logits, labels = torch.tensor(random.normal(size=(15, classes))), torch.tensor(random.integers(0, classes, 15))
    counts = random.integers(0, 3, 15)
    counts[0] = 1
    chosen = torch.tensor(np.repeat(np.arange(15), counts))
    probabilities, truth, weights = logits.softmax(1).numpy(), labels.numpy().astype(float), counts[None].astype(float)
    found = {
        auc: one_against_rest_auc(probabilities, truth, weights),
        balanced_accuracy: weighted_balanced_accuracy(probabilities, truth, weights),
    }
    for metric, value in found.items():
        np.testing.assert_allclose(value[0], metric(logits[chosen], labels[chosen]), atol=1e-9)


def test_probabilities_that_were_rounded_to_one_keep_their_order():
    rows = np.array([[1e-9, 1.0], [1e-12, 1.0], [0.5, 0.5]])
    assert one_against_rest_auc(rows, np.array([0.0, 1.0, 0.0]), np.ones((1, 3))) == [1.0]


def test_ties_of_a_probability_do_not_depend_on_how_the_others_share_the_rest():
    rows = np.array([[0.2, 0.1, 0.7], [0.2, 0.2, 0.6], [0.2, 0.5, 0.3]])
    assert len(set(rows[:, 1:].sum(1))) > 1  # rounding
    found = one_against_rest_auc(rows, np.array([0, 1, 2]), np.ones((1, 3)))
    assert found == [(0.5 + 0.5 + 0) / 3]  # class 0: two ties; class 1: between the others; class 2: below both


def test_classes_that_a_sample_lacks_are_left_out():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.2, 0.6, 0.2]])
    labels, weights = np.array([0, 1, 2]), np.array([[1.0, 1, 0], [0, 2, 0], [0, 0, 0], [1, 1, 1]])
    found = weighted_balanced_accuracy(probabilities, labels, weights)
    np.testing.assert_allclose(found, [1, 1, np.nan, 2 / 3])
    found = one_against_rest_auc(probabilities, labels, weights)
    # All three: class 0 is above both others, class 1 above one of two, class 2 above one of two.
    np.testing.assert_allclose(found, [1, np.nan, np.nan, (1 + 0.5 + 0.5) / 3])


def test_a_score_that_is_not_a_number_is_in_the_right_order_with_none():
    positive = np.array([True, True, False, False])
    assert weighted_auc(np.array([np.nan, 2.0, 1.0, 0.0]), positive, np.ones((1, 4))) == [0.5]
    assert weighted_auc(np.array([3.0, 2.0, np.nan, 0.0]), positive, np.ones((1, 4))) == [0.5]
    assert weighted_auc(np.full(4, np.nan), positive, np.ones((1, 4))) == [0]
