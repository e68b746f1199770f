"""What a comparison found: each method against FedHelp, with intervals over patients and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.federation.comparison import Cell
from fedhelp_med.federation.site import studies_file
from fedhelp_med.federation.workspace import Row, key_metric
from fedhelp_med.methods import ROLES
from fedhelp_med.metrics import one_against_rest_auc, weighted_balanced_accuracy
from fedhelp_med.report.statistics import (
    Floats,
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
from fedhelp_med.report.studies import read_studies

DRAWS = 2000
ROUNDING = 1e-9

BLOCK = 200
"""So many draws are computed at once: it bounds the memory that a large test set takes."""


@dataclass(frozen=True)
class Results:
    """The deployed networks' results on one split; a cell or site that failed is NaN.

    Args:
        metric: the key metric.
        split: ``testing``, or ``validation`` while choices are still made.
        methods: full names, M.
        seeds: S.
        sites: names, small sites first, K.
        roles: of the sites.
        values: ``M, S, K``.
        draws: ``M, B, S, K``: the same metric on B samples of each site's patients, which all cells share.
        patients: K, the patients of each site; 0 where a cell did not tell of its studies, and all of the site's
            ``draws`` repeat its values.
    """

    metric: str
    split: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    sites: tuple[str, ...]
    roles: tuple[str, ...]
    values: Floats
    draws: Floats
    patients: tuple[int, ...]

    @property
    def reference(self) -> int:
        """The method to which the others are compared: the first FedHelp, else the first that is not local-only."""
        own = self.find("fedhelp")
        others = (i for i, full in enumerate(self.methods) if full.partition("@")[0] != "local")
        return next(others, 0) if own is None else own

    def find(self, name: str) -> int | None:
        """Return the first entry of a method, with or without changes (``METHOD@...``)."""
        return next((i for i, full in enumerate(self.methods) if full.partition("@")[0] == name), None)

    def places(self, role: str) -> list[int]:
        """Return the indices of a role's sites."""
        return [place for place, own in enumerate(self.roles) if own == role]


@dataclass(frozen=True)
class Difference:
    """One method minus another, over the cells and sites that both have.

    Args:
        value: mean over seeds of the mean over sites.
        error: the bootstrap standard error, over patients and seeds.
        freedom: its degrees of freedom; NaN where nothing was resampled or nothing varies.
    """

    value: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; NaN where nothing tells how uncertain the difference is."""
        if self.identical:
            return 0.0, 0.0
        return t_interval(self.value, self.error, self.freedom)

    @property
    def p(self) -> float:
        """Of the t test, not adjusted for the number of methods; NaN as the interval is."""
        if self.identical:
            return 1.0
        return t_test(self.value, self.error, self.freedom)

    @property
    def detectable(self) -> float:
        """The smallest true difference that these patients and seeds would reveal (80 % power, 5 % two-sided)."""
        return smallest_detectable(self.error, self.freedom)

    @property
    def identical(self) -> bool:
        """Whether the two had the same result in every draw."""
        return abs(self.value) < ROUNDING and self.error < ROUNDING


@dataclass(frozen=True)
class MethodResult:
    """A method at the sites of one role.

    Args:
        method: its full name.
        mean: over seeds, of the mean over sites.
        deviation: standard deviation over seeds of the mean over sites; NaN for one seed.
        difference: to the reference; None for the reference itself.
        p_adjusted: after Holm's correction for the number of methods; NaN for the reference.
    """

    method: str
    mean: float
    deviation: float
    difference: Difference | None
    p_adjusted: float


def read_results(
    cells: Sequence[Cell], metric: str | None = None, draws: int = DRAWS, split: str = "testing"
) -> Results:
    """Collect the finished cells and resample their patients.

    Raises:
        InputError: when no cell has the metric.
    """
    rows = {cell: [row for row in cell.workspace.final(split) if row.model == "deployed"] for cell in cells}
    found = sorted({row.metric for own in rows.values() for row in own})
    if not found and any(cell.workspace.complete for cell in cells):
        other = "validation" if split == "testing" else "testing"
        raise InputError(f"no site has a {split} split to compare on; add one, or use --split {other}")
    if not found:
        raise InputError("the comparison has no finished cell; run it to the end first")
    metric = metric or key_metric(found)
    if metric not in found:
        raise InputError(f"--metric: {metric!r} was not measured; choose one of {', '.join(found)}")
    methods = tuple(dict.fromkeys(cell.method for cell in cells))
    seeds = tuple(sorted({cell.seed for cell in cells}))
    sites = sorted(cells[0].federation.sites, key=lambda site: (ROLES.index(site.role), site.name))
    values = np.full((len(methods), len(seeds), len(sites)), np.nan)
    samples = np.full((len(methods), draws, len(seeds), len(sites)), np.nan)
    patients = []
    for place, site in enumerate(sites):
        measured = {cell: value for cell, own in rows.items() if (value := _value(own, site.name, metric)) is not None}
        indices = {cell: (methods.index(cell.method), seeds.index(cell.seed)) for cell in measured}
        for cell, value in measured.items():
            values[*indices[cell], place] = value
            samples[indices[cell][0], :, indices[cell][1], place] = value
        functions = {cell: _study_metric(cell, site.name, metric, split) for cell in measured}
        known = {cell: function for cell, function in functions.items() if function is not None}
        if not known or len(known) < len(functions):
            patients.append(0)
            continue
        # One set of samples for every cell: the same patients for all methods and seeds.
        own_patients = next(iter(known)).federation.datalists[site.name].patients(split)
        patients.append(len(set(own_patients)))
        counts = patient_counts(own_patients, draws, np.random.default_rng(derive_seed("bootstrap", site.name)))
        for cell, function in known.items():
            blocks = (counts[start : start + BLOCK] for start in range(0, draws, BLOCK))
            samples[indices[cell][0], :, indices[cell][1], place] = np.concatenate(
                [function(block) for block in blocks]
            )
    names, roles = tuple(site.name for site in sites), tuple(site.role for site in sites)
    return Results(metric, split, methods, seeds, names, roles, values, samples, tuple(patients))


def difference(results: Results, method: int, other: int, places: Sequence[int]) -> Difference:
    """Compare two methods at some sites, paired by seed, site and patient.

    A draw resamples the seeds and the patients of each site. The test set of a site is the same for every seed, so a
    draw's patients are the same for every seed as well.

    Args:
        results: of the comparison.
        method: index of the first method.
        other: index of what is subtracted.
        places: indices of the sites.
    """
    pairs = (results.values[method] - results.values[other])[:, places]
    seeds = np.isfinite(pairs).any(1)
    if not seeds.any():
        nan = float("nan")
        return Difference(nan, nan, nan)
    places = [place for place, found in zip(places, np.isfinite(pairs).any(0), strict=True) if found]
    by_seed = mean_of_defined(pairs[seeds], 1)
    samples = mean_of_defined((results.draws[method] - results.draws[other])[:, seeds][..., places], 2)
    random = np.random.default_rng(derive_seed("bootstrap", "seeds"))
    error = standard_error((samples * seed_weights(len(by_seed), len(samples), random)).sum(1))
    freedom = degrees_of_freedom(
        error if error > ROUNDING else 0.0,  # equal differences in all draws tell nothing of others
        float(by_seed.var(ddof=1)) / len(by_seed) if len(by_seed) > 1 else 0.0,
        len(by_seed) - 1,
        sum(max(0, results.patients[place] - 1) for place in places),
    )
    return Difference(float(by_seed.mean()), error, freedom)


def compare_methods(results: Results, role: str) -> list[MethodResult]:
    """Return what each method reaches at the sites of a role, and its difference to the reference."""
    places, reference = results.places(role), results.reference
    differences = {
        index: difference(results, index, reference, places)
        for index in range(len(results.methods))
        if index != reference
    }
    adjusted = dict(zip(differences, holm([found.p for found in differences.values()]), strict=True))
    found = []
    for index, method in enumerate(results.methods):
        means = mean_of_defined(results.values[index][:, places], 1)
        means = means[np.isfinite(means)]
        mean = float(means.mean()) if len(means) else float("nan")
        deviation = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
        found.append(MethodResult(method, mean, deviation, differences.get(index), adjusted.get(index, float("nan"))))
    return found


def _value(rows: Sequence[Row], site: str, metric: str) -> float | None:
    return next((row.value for row in rows if row.site == site and row.metric == metric), None)


def _study_metric(cell: Cell, site: str, metric: str, split: str) -> Callable[[Floats], Floats] | None:
    """Return the metric as a function of the studies' weights (``B, N`` -> ``B``), None where studies do not tell.

    The table is ``study,label,p(CLASS)...`` or ``study,dice_CLASS...``, with a line for each study of the datalist.
    """
    table = read_studies(studies_file(cell.workspace.site(site), "deployed", split))
    if table is None or len(table["study"]) != cell.federation.datalists[site].samples(split):
        return None
    if metric in table:
        return partial(weighted_mean, table[metric])
    if metric == "dice_mean" and (columns := [table[name] for name in table if name.startswith("dice_")]):
        return lambda weights: mean_of_defined(np.stack([weighted_mean(column, weights) for column in columns]), 0)
    if "label" not in table:
        return None
    return _of_probabilities(table, metric)


def _of_probabilities(table: Mapping[str, Floats], metric: str) -> Callable[[Floats], Floats] | None:
    labels = table["label"]
    probabilities = np.stack([column for name, column in table.items() if name.startswith("p(")], 1)
    known: dict[str, Callable[[Floats], Floats]] = {
        "auc": partial(one_against_rest_auc, probabilities, labels),
        "accuracy": partial(weighted_mean, (probabilities.argmax(1) == labels).astype(np.float64)),
        "balanced_accuracy": partial(weighted_balanced_accuracy, probabilities, labels),
    }
    return known.get(metric)
