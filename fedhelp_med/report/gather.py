"""Everything that a run folder tells about its run; the data that it was made from are not needed."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import SHIPPED_BUNDLES
from fedhelp_med.federation.metering import read_flops
from fedhelp_med.federation.site import studies_file
from fedhelp_med.federation.workspace import Row, Workspace
from fedhelp_med.report.privacy import public_configuration
from fedhelp_med.report.statistics import Floats
from fedhelp_med.report.studies import class_names, read_studies
from fedhelp_med.report.summary import SiteResult, Summary, summarise

Curve = list[tuple[int, float]]

METRICS = {
    "auc": "AUC",
    "dice_mean": "Dice",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
}


def metric_name(metric: str) -> str:
    """Return what a person calls a metric."""
    return METRICS.get(metric, metric.replace("_", " "))


@dataclass(frozen=True)
class SiteCosts:
    """What a run cost one site; None where it was not recorded."""

    sent: int
    seconds: float
    flops: int | None


@dataclass(frozen=True)
class RunFacts:
    """A finished run.

    Args:
        folder: the run folder.
        content: of its federation file.
        rows: of ``metrics.csv``.
        events: of ``events.jsonl``.
        studies: by site: what the deployed network found in each testing study.
        flops: by site.
    """

    folder: Path
    content: Mapping[str, Any]
    rows: tuple[Row, ...]
    events: tuple[Mapping[str, Any], ...]
    studies: Mapping[str, Mapping[str, Floats]]
    flops: Mapping[str, int | None]

    @cached_property
    def summary(self) -> Summary:
        """The testing results in the key metric."""
        return summarise(self.rows)

    @property
    def sites(self) -> tuple[SiteResult, ...]:
        """The sites, small ones first."""
        return self.summary.sites

    @property
    def metric(self) -> str:
        """The key metric as a person calls it."""
        return metric_name(self.summary.metric)

    @cached_property
    def rounds(self) -> dict[int, Mapping[str, Any]]:
        """The ``round`` event of every round; of a repeated round the last counts."""
        return {event["round"]: event for event in self.events if event["event"] == "round"}

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the task, for masks those that are scored; empty where no study was kept."""
        return next((class_names(table) for table in self.studies.values()), [])

    @property
    def classifies(self) -> bool:
        """Whether studies have labels, and not masks."""
        return any("label" in table for table in self.studies.values())

    @property
    def configuration(self) -> dict[str, Any]:
        """The federation file without its paths."""
        name = str(self.content.get("bundle", ""))
        return public_configuration(self.content, shipped=(SHIPPED_BUNDLES / name / "configs").is_dir())

    def last(self, event: str) -> Mapping[str, Any] | None:
        """Return the last event of a kind."""
        return next((found for found in reversed(self.events) if found["event"] == event), None)

    def curves(self, site: str) -> dict[str, Curve]:
        """Return a site's validation results in the key metric over the rounds, by network."""
        return self._curves.get(site, {})

    @cached_property
    def _curves(self) -> dict[str, dict[str, Curve]]:
        found: dict[str, dict[str, Curve]] = {}
        for row in self.rows:
            known = row.split == "validation" and row.metric == self.summary.metric and math.isfinite(row.value)
            if known and row.model != "deployed":
                found.setdefault(row.site, {}).setdefault(row.model, []).append((row.round, row.value))
        return found

    def loss_terms(self) -> dict[str, dict[str, Curve]]:
        """Return the weighted mean of each added loss term over the rounds, by term and site."""
        found: dict[str, dict[str, Curve]] = {}
        for number, event in sorted(self.rounds.items()):
            for site, told in event["sites"].items():
                for term, value in told.get("loss_terms", {}).items():
                    found.setdefault(term, {}).setdefault(site, []).append((number, float(value)))
        return found

    def costs(self, site: str) -> SiteCosts:
        """Return what the run cost a site, without its reference."""
        told = [event["sites"][site] for event in self.rounds.values() if site in event["sites"]]
        sent = sum(int(entry["bytes_sent"]) for entry in told)
        return SiteCosts(sent, sum(float(entry["seconds"]) for entry in told), self.flops.get(site))

    def mean(self, role: str, column: str) -> float | None:
        """Return the mean of ``local`` or ``deployed`` over the sites of a role; None where one is missing."""
        values = [getattr(site, column) for site in self.sites if site.role == role]
        return None if not values or None in values else fmean(values)

    def harmed(self) -> list[SiteResult]:
        """Return the sites that deploy something worse than what they would have alone."""
        return [site for site in self.sites if site.gain is not None and site.gain < -1e-9]


def gather_run(folder: Path) -> RunFacts:
    """Read a finished run.

    Raises:
        InputError: when the folder holds none.
    """
    workspace = Workspace(folder)
    if not workspace.complete or not workspace.metrics_file.is_file():
        raise InputError(f"{folder}: the run is not finished; go on with `fedhelp run ... --resume`")
    content = read_content(workspace.federation_file)
    rows = read_rows(workspace.metrics_file)
    names = sorted({row.site for row in rows})
    found = {name: read_studies(studies_file(workspace.site(name), "deployed", "testing")) for name in names}
    return RunFacts(
        folder=folder,
        content=content,
        rows=rows,
        events=tuple(workspace.events()),
        studies={name: table for name, table in found.items() if table is not None},
        flops={name: read_flops(workspace.site(name)) for name in names},
    )


def read_content(path: Path) -> dict[str, Any]:
    """Return what stands in a run's federation file; an earlier version's keys are not judged.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); bring the run's own file back") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a federation file; bring the run's own file back")
    return content


def read_rows(path: Path) -> tuple[Row, ...]:
    """Return the lines of a ``metrics.csv``.

    Raises:
        InputError: when it is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return tuple(_row(line) for line in csv.DictReader(file))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: is damaged; `fedhelp run ... --resume` writes it again") from None


def _row(line: Mapping[str, str]) -> Row:
    site, role, model, split, metric = (line[key] for key in ("site", "role", "model", "split", "metric"))
    return Row(int(line["round"]), site, role, model, split, metric, float(line["value"]))
