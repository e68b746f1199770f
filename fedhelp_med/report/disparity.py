"""Who gains, who is harmed, and what it costs each site; ``docs/disparity.md`` defines every quantity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedhelp_med.federation.comparison import Cell
from fedhelp_med.federation.metering import read_flops
from fedhelp_med.foundation import Ledger, LedgerSummary
from fedhelp_med.report.comparison import Results, difference
from fedhelp_med.report.statistics import Floats, mean_of_defined

POINT = 0.01
"""One point of a metric that goes from 0 to 1."""

ROUNDING = 1e-9


@dataclass(frozen=True)
class SiteGain:
    """What a method brought one site.

    Args:
        method: its full name.
        site: the site.
        role: its role.
        local: the local-only result, mean over seeds.
        deployed: the deployed network's, mean over the same seeds.
        gain: deployed minus local-only.
        low: of the gain's 95 % interval.
        high: of the gain's 95 % interval.
    """

    method: str
    site: str
    role: str
    local: float
    deployed: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Disparity:
    """How evenly a method serves the sites; built from its ``SiteGain``s.

    Args:
        method: its full name.
        sites: the gains, small sites first; a site without a result is left out.
    """

    method: str
    sites: tuple[SiteGain, ...]

    def gain(self, role: str) -> float:
        """Mean gain of the sites of a role; NaN without one."""
        return self._mean("gain", role)

    def gap(self, column: str) -> float:
        """Mean over large sites minus mean over small sites of ``local`` or ``deployed``; NaN without both roles."""
        return self._mean(column, "large") - self._mean(column, "small")

    @property
    def worst(self) -> SiteGain | None:
        """The site whose deployed network is the worst."""
        return min(self.sites, key=lambda site: site.deployed, default=None)

    @property
    def least_certain(self) -> SiteGain | None:
        """The site whose interval of the gain reaches lowest; None where a site's is not known."""
        if any(math.isnan(site.low) for site in self.sites):
            return None
        return min(self.sites, key=lambda site: site.low, default=None)

    def harmed(self, tolerance: float = 0.0) -> float:
        """The share of sites that deploy something worse than local-only by more than ``tolerance``."""
        if not self.sites:
            return float("nan")
        return fmean(site.gain < -tolerance - ROUNDING for site in self.sites)

    def _mean(self, column: str, role: str) -> float:
        values = [getattr(site, column) for site in self.sites if site.role == role]
        return fmean(values) if values else float("nan")


@dataclass(frozen=True)
class SiteCost:
    """What a whole run costs one site, mean over seeds; NaN where it was not recorded.

    Args:
        method: its full name.
        site: the site.
        role: its role.
        bytes_sent: of uploaded weights.
        seconds: of training, with the validation after each round.
        flops: floating-point operations of training.
    """

    method: str
    site: str
    role: str
    bytes_sent: float
    seconds: float
    flops: float


def disparities(results: Results) -> list[Disparity]:
    """Return each method's disparity; empty without local-only among the methods."""
    local = results.find("local")
    if local is None:
        return []
    return [Disparity(method, _gains(results, index, local)) for index, method in enumerate(results.methods)]


def site_costs(cells: Sequence[Cell]) -> list[SiteCost]:
    """Return what each method costs each site, sites in the order of their names."""
    costs = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method and cell.workspace.complete]
        recorded = [_recorded(cell) for cell in own]
        for site in cells[0].federation.sites:
            flops = [read_flops(cell.workspace.site(site.name)) for cell in own]
            amounts = [rounds.get(site.name, (np.nan, np.nan)) for rounds in recorded]
            sent, seconds = (_mean([amount[index] for amount in amounts]) for index in (0, 1))
            counted = _mean([amount for amount in flops if amount is not None])
            costs.append(SiteCost(method, site.name, site.role, sent, seconds, counted))
    return costs


def foundation_calls(cells: Sequence[Cell]) -> LedgerSummary | None:
    """Return what the foundation model was asked, once and before any run; None without one.

    A site never calls it: it reads the answers in the ledger.
    """
    foundation = cells[0].federation.file.foundation
    if foundation is None:
        return None
    with Ledger(foundation.ledger, readonly=True) as ledger:
        return ledger.summary()


def _gains(results: Results, method: int, local: int) -> tuple[SiteGain, ...]:
    gains = []
    for place, (site, role) in enumerate(zip(results.sites, results.roles, strict=True)):
        both = np.isfinite(results.values[method, :, place]) & np.isfinite(results.values[local, :, place])
        if both.any():
            before, after = (float(results.values[index, both, place].mean()) for index in (local, method))
            gain = difference(results, method, local, [place])
            gains.append(SiteGain(results.methods[method], site, role, before, after, gain.value, *gain.interval))
    return tuple(gains)


def _recorded(cell: Cell) -> dict[str, tuple[float, float]]:
    """Return bytes and seconds by site, summed over the rounds; of a repeated round the last counts."""
    rounds = {event["round"]: event["sites"] for event in cell.workspace.events() if event["event"] == "round"}
    names = {name for sites in rounds.values() for name in sites}
    return {
        name: (
            float(sum(sites[name]["bytes_sent"] for sites in rounds.values() if name in sites)),
            float(sum(sites[name]["seconds"] for sites in rounds.values() if name in sites)),
        )
        for name in names
    }


def _mean(values: Sequence[float]) -> float:
    array: Floats = np.array(values, dtype=np.float64)
    return float(mean_of_defined(array, 0))
