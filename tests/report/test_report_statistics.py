"""The statistics against hand-computed and brute-force values, and on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_med.report.statistics import (
    degrees_of_freedom,
    holm,
    mean_of_defined,
    patient_counts,
    seed_weights,
    smallest_detectable,
    standard_error,
    t_interval,
    t_test,
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


@pytest.mark.parametrize(
    ("seeds", "of_patients", "of_seeds", "both", "least"),
    [(5, 1.5, 0.3, 1.0, 0.92), (5, 0.1, 0.3, 0.1, 0.91), (3, 1.0, 0.3, 1.0, 0.91), (2, 0.01, 0.3, 0.01, 0.91)],
)
def test_intervals_cover_the_true_difference_as_often_as_they_claim(seeds, of_patients, of_seeds, both, least):
    # Crossed as in a comparison: every seed is tested on the same patients.
    patients, covered, rejected, simulations = 60, 0, 0, 400
    random = generator(4)
    for number in range(simulations):
        by_seed, by_patient = random.normal(0, of_seeds, (seeds, 1)), random.normal(0, of_patients, (1, patients))
        differences = 0.7 + by_seed + by_patient + random.normal(0, both, (seeds, patients))
        own = generator(number)
        counts = patient_counts(range(patients), 400, own)
        samples = np.stack([weighted_mean(row, counts) for row in differences], 1)
        error = standard_error((samples * seed_weights(seeds, 400, own)).sum(1))
        found = differences.mean(1)
        freedom = degrees_of_freedom(error, found.var(ddof=1) / seeds, seeds - 1, patients - 1)
        low, high = t_interval(found.mean(), error, freedom)
        covered += low <= 0.7 <= high
        rejected += t_test(found.mean() - 0.7, error, freedom) < 0.05
    assert least <= covered / simulations <= 0.985
    assert rejected == simulations - covered  # the test and the interval say the same


def test_degrees_of_freedom_lie_between_those_of_seeds_and_patients():
    assert degrees_of_freedom(0.1, 0.01, 4, 59) == pytest.approx(4)  # all of it from seeds
    assert degrees_of_freedom(0.1, 0.0, 4, 59) == pytest.approx(59)
    assert degrees_of_freedom(0.1, 0.005, 4, 59) == pytest.approx(0.01**2 / (0.005**2 / 4 + 0.005**2 / 59))
    assert degrees_of_freedom(0.1, 0.02, 1, 0) == 1  # patients not resampled
    assert degrees_of_freedom(0.1, 0.0, 0, 20) == pytest.approx(20)  # one seed
    assert np.isnan([degrees_of_freedom(0.1, 0.0, 0, 0), degrees_of_freedom(0.0, 0.0, 4, 59)]).all()


def test_t_tables():
    assert t_interval(1.0, 0.5, 4) == pytest.approx((1 - 0.5 * 2.776, 1 + 0.5 * 2.776), abs=1e-3)
    assert t_interval(0.0, 1.0, 1)[1] == pytest.approx(12.706, abs=1e-3)
    assert t_interval(0.0, 1.0, 9, level=0.9)[1] == pytest.approx(1.833, abs=1e-3)
    assert t_test(2.776, 1.0, 4) == t_test(-2.776, 1.0, 4) == pytest.approx(0.05, abs=1e-4)
    assert t_test(0.0, 0.3, 4) == 1
    nan = float("nan")
    assert np.isnan([*t_interval(1.0, 0.5, nan), t_test(1.0, 0.5, nan), smallest_detectable(0.5, nan)]).all()


def test_a_standard_error_leaves_out_what_is_not_defined():
    assert np.isnan(standard_error(np.array([1.0, np.nan])))
    assert standard_error(np.array([1.0, np.nan, 3.0])) == pytest.approx(np.sqrt(2))


def test_the_smallest_detectable_difference_is_found_four_times_of_five():
    assert smallest_detectable(1.0, 1e9) == pytest.approx(2.802, abs=0.001)
    assert smallest_detectable(1.0, 4) == pytest.approx(2.776 + 0.941, abs=0.001)
    assert smallest_detectable(0.01, 1e9, power=0.9) == pytest.approx(0.03242, abs=1e-5)
    observed = generator(5).normal(smallest_detectable(0.02, 1e9), 0.02, 100_000)
    assert (np.abs(observed) > 1.96 * 0.02).mean() == pytest.approx(0.8, abs=0.01)


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
