"""What a comparison found: each method against FedHelp, with intervals over patients and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.datalist import patient_key
from fedhelp_med.federation.comparison import Cell
from fedhelp_med.federation.site import studies_file
from fedhelp_med.federation.workspace import Row, key_metric
from fedhelp_med.methods import ROLES
from fedhelp_med.report.statistics import (
    Floats,
    holm,
    interval,
    mean_of_defined,
    one_against_rest_auc,
    patient_counts,
    seed_weights,
    sign_flip_test,
    smallest_detectable,
    standard_error,
    weighted_balanced_accuracy,
    weighted_mean,
)
from fedhelp_med.report.studies import read_studies

DRAWS = 2000
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
        patients: whether every cell told of its studies; where not, its ``draws`` repeat its value.
    """

    metric: str
    split: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    sites: tuple[str, ...]
    roles: tuple[str, ...]
    values: Floats
    draws: Floats
    patients: bool

    @property
    def reference(self) -> int:
        """The method to which the others are compared: the first FedHelp, else the first of all."""
        return self.find("fedhelp") or 0

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
        low: of the 95 % interval.
        high: of the 95 % interval.
        error: the bootstrap standard error.
        p: of the sign-flip test over (seed, site), not adjusted.
    """

    value: float
    low: float
    high: float
    error: float
    p: float


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

    @property
    def detectable(self) -> float:
        """The smallest true difference that these test sets and seeds would reveal (80 % power, 5 % two-sided)."""
        return float("nan") if self.difference is None else smallest_detectable(self.difference.error)


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
    shape = (len(methods), len(seeds), len(sites))
    values, samples = np.full(shape, np.nan), np.full((shape[0], draws, *shape[1:]), np.nan)
    patients = True
    for place, site in enumerate(sites):
        counts: Floats | None = None
        for cell, own in rows.items():
            value = _value(own, site.name, metric)
            if value is None:
                continue
            where = methods.index(cell.method), seeds.index(cell.seed)
            values[*where, place] = value
            studies = studies_file(cell.workspace.site(site.name), "deployed", split)
            function = _study_metric(studies, metric, cell.federation.datalists[site.name].samples(split))
            if function is None:
                patients = False
                samples[where[0], :, where[1], place] = value
                continue
            if counts is None:  # one set of samples for every cell: the same patients for all methods and seeds
                random = np.random.default_rng(derive_seed("bootstrap", site.name))
                counts = patient_counts(_patients(cell, site.name, split), draws, random)
            blocks = (counts[start : start + BLOCK] for start in range(0, draws, BLOCK))
            samples[where[0], :, where[1], place] = np.concatenate([function(block) for block in blocks])
    names, roles = tuple(site.name for site in sites), tuple(site.role for site in sites)
    return Results(metric, split, methods, seeds, names, roles, values, samples, patients)


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
        return Difference(nan, nan, nan, nan, nan)
    samples = mean_of_defined((results.draws[method] - results.draws[other])[:, seeds][..., places], 2)
    random = np.random.default_rng(derive_seed("bootstrap", "seeds"))
    draws = (samples * seed_weights(int(seeds.sum()), len(samples), random)).sum(1)
    test = sign_flip_test(pairs.ravel(), np.random.default_rng(derive_seed("sign flips")))
    value = float(mean_of_defined(pairs[seeds], 1).mean())
    return Difference(value, *interval(draws), standard_error(draws), test)


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


def _patients(cell: Cell, site: str, split: str) -> list[object]:
    """Return the patient of each study of a split; a study without one is a patient of its own."""
    items = cell.federation.datalists[site].splits[split]
    return [patient_key(item["patient"]) if "patient" in item else number for number, item in enumerate(items)]


def _study_metric(path: Path, metric: str, count: int) -> Callable[[Floats], Floats] | None:
    """Return the metric as a function of the studies' weights (``B, N`` -> ``B``), None where studies do not tell.

    Args:
        path: ``study,label,p(CLASS)...`` or ``study,dice_CLASS...``, a line a study.
        metric: its name in ``metrics.csv``.
        count: N, as the datalist has it.
    """
    table = read_studies(path)
    if table is None or len(table["study"]) != count:
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
