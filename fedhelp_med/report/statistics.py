"""The statistics of a comparison: pure functions on arrays.

Bootstrap samples are weights: ``B, N`` counts of how often each of N studies was drawn in each of B draws. Every
statistic of a sample is then a few matrix operations, and two methods see the same patients by sharing the weights.
"""

from collections.abc import Sequence
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.metrics import one_against_rest_auc as one_against_rest_auc
from fedhelp_med.metrics import weighted_balanced_accuracy as weighted_balanced_accuracy

Floats = NDArray[np.float64]

EXACT_PAIRS = 12
"""Up to so many pairs, the sign-flip test goes through every assignment of signs."""


def patient_counts(patients: Sequence[object], draws: int, random: np.random.Generator) -> Floats:
    """Resample patients with replacement, each with all of their studies (cluster bootstrap).

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979; for clusters Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8.

    Args:
        patients: the patient of each of the N studies.
        draws: B.
        random: the random stream.

    Returns:
        Floats: ``B, N``, how often each study is in each sample.
    """
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    counts = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=draws)
    return counts[:, [numbers[patient] for patient in patients]].astype(np.float64)


def seed_weights(seeds: int, draws: int, random: np.random.Generator) -> Floats:
    """Resample seeds with replacement, as weights of a mean over seeds.

    Seeds are few, and the plain bootstrap of a mean of S values has a variance (S - 1) / S too small: the counts'
    distances to 1 are stretched by sqrt(S / (S - 1)) (Rao and Wu, "Resampling inference with complex survey data",
    1988). One seed has no variance to estimate.

    Returns:
        Floats: ``B, S``; every row sums to 1.
    """
    if seeds == 1:
        return np.ones((draws, 1))
    counts = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    weights: Floats = (1 + (counts - 1) * np.sqrt(seeds / (seeds - 1))) / seeds
    return weights


def mean_of_defined(values: Floats, axis: int) -> Floats:
    """Mean over the entries that are not NaN; NaN where none is defined."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean of ``values`` (``N``, NaN is left out) under each row of ``weights`` (``B, N``): ``B``."""
    defined = np.isfinite(values)
    total = weights[:, defined].sum(1)
    return _ratio(weights[:, defined] @ values[defined], total)


def interval(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws (Efron and Tibshirani 1993, chapter 13); NaN draws are left out."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(draws: Floats) -> float:
    """Standard deviation of bootstrap draws; NaN draws are left out."""
    defined = draws[np.isfinite(draws)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else np.nan


def smallest_detectable(error: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true difference that a two-sided z test at level ``alpha`` would find with probability ``power``.

    ``(z(1 - alpha / 2) + z(power)) * error``, 2.80 standard errors by default.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * error


def sign_flip_test(differences: Floats, random: np.random.Generator, draws: int = 10_000) -> float:
    """Two-sided p value of a paired randomisation test of the mean difference (Fisher 1935, Pitman 1937).

    If the two methods were exchangeable, each difference could as well have had the other sign. p is the share of
    sign assignments whose mean is at least as far from 0 as the observed one: of all of them for up to
    ``EXACT_PAIRS`` pairs, else of ``draws`` random ones and the observed one.

    Args:
        differences: one for each pair; NaN is left out.
        random: the random stream.
        draws: the number of random sign assignments.

    Returns:
        float: p; NaN without a pair.
    """
    pairs = differences[np.isfinite(differences)]
    if not len(pairs):
        return np.nan
    exact = len(pairs) <= EXACT_PAIRS
    if exact:
        signs = np.array(list(product((1, -1), repeat=len(pairs))))
    else:
        signs = random.choice((1, -1), (draws, len(pairs)))
    rounding = 1e-9 * np.abs(pairs).sum()
    extreme = int((np.abs(signs @ pairs) >= abs(pairs.sum()) - rounding).sum())
    return extreme / len(signs) if exact else (extreme + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    The i-th smallest of m is multiplied by m - i + 1, never below a smaller one's result, at most 1. NaN stays NaN
    and does not count.
    """
    adjusted = [np.nan] * len(p_values)
    order = sorted((p, index) for index, p in enumerate(p_values) if np.isfinite(p))
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def _ratio(numerator: Floats, denominator: NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
    return ratio
