"""The statistics against hand-computed and brute-force values, and on data whose truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_med.report.statistics import (
    holm,
    interval,
    mean_of_defined,
    patient_counts,
    seed_weights,
    sign_flip_test,
    smallest_detectable,
    standard_error,
    weighted_mean,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_a_mean_leaves_out_what_is_not_defined():
    values = np.array([1.0, np.nan, 4.0])
    assert weighted_mean(values, np.array([[1.0, 5, 2], [0, 1, 0]])).tolist()[0] == 3
    assert np.isnan(weighted_mean(values, np.array([[0.0, 1, 0]])))[0]
    found = mean_of_defined(np.array([[1.0, np.nan], [3.0, np.nan]]), 0)
    assert found[0] == 2 and np.isnan(found[1])


def test_patients_are_drawn_with_all_their_studies():
    patients = ["a", "b", "a", "c", "b", "a"]
    counts = patient_counts(patients, 500, generator())
    assert counts.shape == (500, 6)
    for first, second in ((0, 2), (0, 5), (1, 4)):
        assert (counts[:, first] == counts[:, second]).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()
    assert counts[:, [0, 1, 3]].std() > 0
    assert (patient_counts(patients, 500, generator()) == counts).all()


def test_the_bootstrap_of_a_mean_has_the_known_standard_error():
    values = generator(1).normal(size=50)
    draws = weighted_mean(values, patient_counts(range(50), 20_000, generator(2)))
    assert standard_error(draws) == pytest.approx(values.std() / np.sqrt(50), rel=0.03)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_have_the_standard_error_of_a_mean(seeds):
    values = generator(seeds).normal(size=seeds)
    weights = seed_weights(seeds, 40_000, generator(3))
    np.testing.assert_allclose(weights.sum(1), 1)
    assert standard_error(weights @ values) == pytest.approx(values.std(ddof=1) / np.sqrt(seeds), rel=0.03)


def test_one_seed_says_nothing_of_others():
    assert (seed_weights(1, 5, generator()) == 1).all()


def test_intervals_cover_the_true_difference_as_often_as_they_claim():
    # Crossed as in a comparison: every seed is tested on the same patients.
    seeds, patients, covered, simulations = 5, 60, 0, 400
    random = generator(4)
    for number in range(simulations):
        by_seed, by_patient = random.normal(0, 0.3, (seeds, 1)), random.normal(0, 1.5, (1, patients))
        differences = 0.7 + by_seed + by_patient + random.normal(0, 1, (seeds, patients))
        own = generator(number)
        counts = patient_counts(range(patients), 400, own)
        samples = np.stack([weighted_mean(row, counts) for row in differences], 1)
        low, high = interval((samples * seed_weights(seeds, 400, own)).sum(1))
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / simulations <= 0.98


def test_an_interval_holds_the_middle_of_the_draws():
    draws = np.append(np.arange(1001.0), np.nan)
    assert interval(draws) == pytest.approx((25, 975))
    assert interval(draws, 0.5) == pytest.approx((250, 750))
    assert np.isnan(interval(np.array([np.nan]))).all() and np.isnan(standard_error(np.array([1.0, np.nan])))


def test_the_smallest_detectable_difference_is_found_four_times_of_five():
    assert smallest_detectable(1.0) == pytest.approx(2.802, abs=0.001)
    assert smallest_detectable(0.01, power=0.9) == pytest.approx(0.03242, abs=1e-5)
    observed = generator(5).normal(smallest_detectable(0.02), 0.02, 100_000)
    assert (np.abs(observed) > 1.96 * 0.02).mean() == pytest.approx(0.8, abs=0.01)


def test_sign_flips_by_hand():
    assert sign_flip_test(np.array([1.0, 2.0, 3.0]), generator()) == 2 / 8
    assert sign_flip_test(np.array([1.0, 2.0, -3.0]), generator()) == 1
    assert sign_flip_test(np.array([1.0, -2.0, 4.0]), generator()) == 6 / 8  # the sums are 7, 5, 3 and 1
    assert sign_flip_test(np.array([0.1, np.nan, 0.2, 0.3]), generator()) == 2 / 8
    assert np.isnan(sign_flip_test(np.array([np.nan]), generator()))


def test_methods_that_are_the_same_have_a_p_of_one():
    assert sign_flip_test(np.zeros(4), generator()) == 1
    assert sign_flip_test(np.zeros(40), generator()) == 1


def test_under_exchangeable_methods_sign_flips_reject_as_rarely_as_they_claim():
    sizes = generator(6).uniform(0.1, 1, 7)
    p_values = [sign_flip_test(sizes * signs, generator()) for signs in itertools.product((1, -1), repeat=7)]
    for level in (0.05, 0.1, 0.3):
        assert np.mean(np.array(p_values) <= level) <= level
    assert min(p_values) == 2 / 2**7


def test_many_pairs_are_flipped_at_random_with_the_same_result():
    pairs = generator(7).normal(0.35, 1, 14)
    signs = np.array(list(itertools.product((1, -1), repeat=14)))
    exact = (np.abs(signs @ pairs) >= abs(pairs.sum()) - 1e-12).mean()
    assert 0.01 < exact < 0.5
    assert sign_flip_test(pairs, generator(8)) == pytest.approx(exact, abs=0.015)
    assert sign_flip_test(pairs, generator(8)) == sign_flip_test(pairs, generator(8))
    assert sign_flip_test(np.ones(60), generator()) == 1 / 10_001  # never 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    found = holm([0.02, np.nan, 0.04])
    assert found[0] == 0.04 and np.isnan(found[1]) and found[2] == 0.04
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers_a_p(p_values):
    found = holm(p_values)
    assert all(p <= adjusted <= min(1, p * len(p_values)) + 1e-12 for p, adjusted in zip(p_values, found, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
