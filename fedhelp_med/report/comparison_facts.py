"""What a comparison's page needs, kept beside its tables: it can be rebuilt anywhere, without the data."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_json
from fedhelp_med.federation.comparison import Cell
from fedhelp_med.federation.workspace import Row, Workspace
from fedhelp_med.report.comparison import Results
from fedhelp_med.report.disparity import SiteGain, disparities
from fedhelp_med.report.gather import Curve, metric_name, read_content, read_rows
from fedhelp_med.report.sheets import Sheet
from fedhelp_med.report.statistics import mean_of_defined

SHOWN = {"small": ("global", "surrogate", "own", "local"), "large": ("large", "global", "proxy", "own", "local")}
"""The network whose curve stands for a method at the sites of a role: the first of these that it has."""


@dataclass(frozen=True)
class ComparisonFacts:
    """A comparison on one split.

    Args:
        folder: of the comparison.
        name: of the federation.
        key: the metric, as in ``comparison.csv``.
        split: ``testing`` or ``validation``.
        methods: full names in the order of the command.
        reference: the method that the others are compared to.
        seeds: of the cells.
        roles: by site, small ones first.
        values: by method, seed and site (``M, S, K``); NaN where there is none.
        gains: of every method at every site over training alone; empty without it among the methods.
        sheets: the tables.
    """

    folder: Path
    name: str
    key: str
    split: str
    methods: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    roles: Mapping[str, str]
    values: list[list[list[float]]]
    gains: tuple[SiteGain, ...]
    sheets: tuple[Sheet, ...]

    @property
    def metric(self) -> str:
        """The metric as a person calls it."""
        return metric_name(self.key)

    def means(self, method: str, role: str) -> list[float]:
        """Return, for every seed with a result, the mean over the sites of a role."""
        places = [place for place, own in enumerate(self.roles.values()) if own == role]
        found = []
        for by_site in self.values[self.methods.index(method)]:
            defined = [by_site[place] for place in places if math.isfinite(by_site[place])]
            if defined:
                found.append(sum(defined) / len(defined))
        return found

    def difference(self, method: str, other: str, role: str) -> float:
        """Return one method minus another over the seeds and sites that both have; NaN without one."""
        places = [place for place, own in enumerate(self.roles.values()) if own == role]
        pairs = np.array(self.values[self.methods.index(method)]) - np.array(self.values[self.methods.index(other)])
        return float(mean_of_defined(mean_of_defined(pairs[:, places], 1), 0))

    def cell(self, method: str, seed: int) -> Workspace:
        """Return the run folder of a cell."""
        return Workspace(self.folder / "cells" / method / f"seed-{seed}")

    def curves(self, role: str) -> dict[str, Curve]:
        """Return validation results over the rounds by method: the mean over the sites of a role and over seeds."""
        found = {}
        for method in self.methods:
            files = [self.cell(method, seed).metrics_file for seed in self.seeds]
            rows = [row for file in files if file.is_file() for row in read_rows(file)]
            if curve := _mean_curve(rows, role, self.key):
                found[method] = curve
        return found

    def events(self) -> list[tuple[str, int, Mapping[str, Any]]]:
        """Return the events of all cells with method and seed."""
        cells = [(method, seed) for method in self.methods for seed in self.seeds]
        return [(method, seed, event) for method, seed in cells for event in self.cell(method, seed).events()]

    def configuration(self) -> Mapping[str, Any]:
        """Return the federation file of the reference's first cell; empty where it is gone."""
        path = self.cell(self.reference, self.seeds[0]).federation_file
        return read_content(path) if path.is_file() else {}


def _mean_curve(rows: Sequence[Row], role: str, metric: str) -> Curve:
    own = [row for row in rows if row.role == role and row.split == "validation" and row.metric == metric]
    known = {row.model for row in own}
    model = next((name for name in SHOWN[role] if name in known), None)
    by_round: dict[int, list[float]] = {}
    for row in own:
        if row.model == model and math.isfinite(row.value):
            by_round.setdefault(row.round, []).append(row.value)
    return [(number, sum(values) / len(values)) for number, values in sorted(by_round.items())]


def save_facts(results: Results, cells: Sequence[Cell], sheets: Sequence[Sheet], folder: Path) -> None:
    """Write ``comparison.json``, or ``comparison-validation.json``."""
    write_json(
        _file(folder, results.split),
        {
            "name": cells[0].federation.file.name,
            "key": results.metric,
            "split": results.split,
            "methods": results.methods,
            "reference": results.methods[results.reference],
            "seeds": results.seeds,
            "roles": dict(zip(results.sites, results.roles, strict=True)),
            "values": [[[_rounded(value) for value in sites] for sites in seeds] for seeds in results.values.tolist()],
            "gains": [asdict(gain) for disparity in disparities(results) for gain in disparity.sites],
            "sheets": [asdict(sheet) for sheet in sheets],
        },
    )


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def read_facts(folder: Path) -> list[ComparisonFacts]:
    """Read what ``save_facts`` wrote, for every split.

    Raises:
        InputError: when there is nothing.
    """
    files = [file for split in ("testing", "validation") if (file := _file(folder, split)).is_file()]
    if not files:
        raise InputError(
            f"{folder}: has no comparison.json, which the report is made from; give the command of `fedhelp compare` "
            "again: no finished cell is repeated"
        )
    return [_read(folder, file) for file in files]


def _file(folder: Path, split: str) -> Path:
    return folder / ("comparison.json" if split == "testing" else f"comparison-{split}.json")


def _read(folder: Path, file: Path) -> ComparisonFacts:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        nan = float("nan")
        content["values"] = [
            [[nan if value is None else value for value in sites] for sites in seeds] for seeds in content["values"]
        ]
        content["gains"] = tuple(SiteGain(**gain) for gain in content["gains"])
        content["sheets"] = tuple(
            Sheet(
                sheet["title"],
                tuple(sheet["columns"]),
                tuple(map(tuple, sheet["rows"])),
                tuple(sheet["notes"]),
                tuple(sheet["text"]),
            )
            for sheet in content["sheets"]
        )
        for key in ("methods", "seeds"):
            content[key] = tuple(content[key])
        return ComparisonFacts(folder, **content)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: is damaged; give the command of `fedhelp compare` again") from None
