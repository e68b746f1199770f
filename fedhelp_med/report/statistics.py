"""The statistics of a comparison: pure functions on arrays.

Bootstrap samples are weights: ``B, N`` counts of how often each of N studies was drawn in each of B draws. Every
statistic of a sample is then a few matrix operations, and two methods see the same patients by sharing the weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]


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


def standard_error(draws: Floats) -> float:
    """Standard deviation of bootstrap draws; NaN draws are left out."""
    defined = draws[np.isfinite(draws)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else np.nan


def degrees_of_freedom(error: float, seed_variance: float, of_seeds: int, of_patients: int) -> float:
    """Degrees of freedom of a standard error to which seeds and patients contribute.

    ``error^4 / (u^2 / of_seeds + v^2 / of_patients)`` with the seeds' part u of the squared error and the patients'
    part v, the rest of it: near ``of_seeds`` where seeds make a difference uncertain, near ``of_patients`` where
    patients do.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", 1946.

    Args:
        error: the standard error over seeds and patients.
        seed_variance: u, the variance over S seeds divided by S.
        of_seeds: S - 1; one seed tells nothing of others.
        of_patients: patients minus one, summed over the sites; 0 where they were not resampled.

    Returns:
        float: at least 1; NaN where nothing was resampled or the error is 0.
    """
    if not error > 0 or not of_seeds + of_patients:
        return np.nan
    square = error**2
    own = min(seed_variance, square) if of_patients else square
    parts = [(own, of_seeds), (square - own, of_patients)]
    return max(1.0, square**2 / sum(part**2 / freedom for part, freedom in parts if freedom))


def t_interval(value: float, error: float, freedom: float, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval ``value -+ t error`` by Student's t; NaN where ``freedom`` is."""
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
    return value - reach, value + reach


def t_test(value: float, error: float, freedom: float) -> float:
    """Two-sided p value of a t test of no difference: below .05 where the 95 % interval leaves out 0."""
    return float(2 * stdtr(freedom, -abs(value) / error)) if np.isfinite(freedom) else np.nan


def smallest_detectable(error: float, freedom: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true difference that a two-sided t test at level ``alpha`` would find with probability ``power``.

    ``(t(1 - alpha / 2) + t(power)) * error``: 2.80 standard errors for many degrees of freedom, 3.7 for 4.
    """
    return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, power)) * error


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
