"""Who gained what: the numbers behind the table that a run ends with."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from fedhelp_med.federation.workspace import Row, key_metric


@dataclass(frozen=True)
class SiteResult:
    """One site on its testing split.

    Args:
        site: its name.
        role: ``small`` or ``large``.
        local: of the network trained on the site's data alone; None without a reference.
        deployed: of what the site would use.
        large: of the large network; None at small sites.
    """

    site: str
    role: str
    local: float | None
    deployed: float
    large: float | None

    @property
    def gain(self) -> float | None:
        """Deployed minus local-only; None where one of them is not there or not defined (the AUC of one class)."""
        gain = math.nan if self.local is None else self.deployed - self.local
        return None if math.isnan(gain) else gain


@dataclass(frozen=True)
class Summary:
    """The testing results of a run in one metric."""

    metric: str
    sites: tuple[SiteResult, ...]

    def gap(self, column: str) -> float | None:
        """Mean over large sites minus mean over small sites of ``local`` or ``deployed``; None where undefined."""
        means = []
        for role in ("large", "small"):
            values = [getattr(site, column) for site in self.sites if site.role == role]
            if not values or any(value is None or math.isnan(value) for value in values):
                return None
            means.append(fmean(values))
        return means[0] - means[1]

    def mean_gain(self, role: str) -> float | None:
        """Mean gain of the sites of a role."""
        gains = [site.gain for site in self.sites if site.role == role and site.gain is not None]
        return fmean(gains) if gains else None


def summarise(rows: Iterable[Row], metric: str | None = None) -> Summary:
    """Collect the testing rows of a finished run, sites in the order small, large and by name."""
    testing = [row for row in rows if row.split == "testing"]
    metric = metric or key_metric(row.metric for row in testing)
    values = {(row.site, row.model): row.value for row in testing if row.metric == metric}
    roles = {row.site: row.role for row in testing}
    order = sorted(roles, key=lambda site: (roles[site] == "large", site))
    sites = [
        SiteResult(
            site,
            roles[site],
            values.get((site, "local")),
            values[(site, "deployed")],
            values.get((site, "large")),
        )
        for site in order
        if (site, "deployed") in values
    ]
    return Summary(metric, tuple(sites))
