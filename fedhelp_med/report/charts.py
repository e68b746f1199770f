"""The charts of a run's page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedhelp_med.report.gather import Curve, RunFacts
from fedhelp_med.report.statistics import Floats, mean_of_defined
from fedhelp_med.report.studies import dice, roc
from fedhelp_med.report.svg import GRID, INK, LARGE, MUTED, PAPER, SMALL, THIRD, Chart, drawing, inline, name_rows

ROLE = {"small": SMALL, "large": LARGE}
LINES = {  # of a network's curve: colour, dashes, width
    "local": (MUTED, (0, (1, 1.6)), 1.4),
    "global": (THIRD, (0, (4, 2)), 1.4),
    "large": (LARGE, "solid", 1.8),
    "surrogate": (SMALL, "solid", 1.6),
    "proxy": (SMALL, "solid", 1.6),
    "own": (SMALL, "solid", 1.6),
}
ROW = 0.24  # inches
MOST_CLASSES = 4


def gains(facts: RunFacts) -> Chart:
    """Each site's testing result alone and deployed."""
    sites = facts.sites
    told = "; ".join(
        f"{site.site} ({site.role}) "
        + ("" if site.local is None else f"{site.local:.3f} alone, ")
        + f"{site.deployed:.3f}"
        for site in sites
    )
    alt = f"{facts.metric} of each site's deployed network on its own test studies: {told}."
    with drawing(0.7 + ROW * len(sites)) as figure:
        axes = figure.add_subplot()
        for place, site in enumerate(sites):
            colour = ROLE[site.role]
            if site.local is not None:
                axes.plot([site.local, site.deployed], [place, place], color=colour, linewidth=2.4, alpha=0.55)
                axes.plot(site.local, place, "o", markerfacecolor=PAPER, markeredgecolor=colour, markersize=6)
            axes.plot(site.deployed, place, "o", color=colour, markersize=6.5)
        name_rows(axes, [site.site for site in sites])
        axes.set_xlabel(facts.metric)
        return Chart("gains", "Alone and in the federation", alt, inline(figure, alt))


def disparity(facts: RunFacts) -> Chart | None:
    """The mean of each role before and after; None without a reference or without both roles."""
    found = {role: [facts.mean(role, column) for column in ("local", "deployed")] for role in ROLE}
    if any(value is None for values in found.values() for value in values):
        return None
    means = {role: [value or 0.0 for value in values] for role, values in found.items()}
    told = ", ".join(
        f"{role} sites {before:.3f} alone and {after:.3f} in the federation" for role, (before, after) in means.items()
    )
    alt = f"Mean {facts.metric}: {told}."
    upper = max(means, key=lambda role: means[role][0])
    with drawing(2.3) as figure:
        axes = figure.add_subplot()
        for role, values in means.items():
            axes.plot([0, 1], values, "o-", color=ROLE[role], linewidth=2.2, markersize=6.5)
            place = (-8, 5 if role == upper else -5)
            axes.annotate(
                role, (0, values[0]), place, textcoords="offset points", ha="right", va="center", color=ROLE[role]
            )
        axes.set_xticks([0, 1], ["alone", "federation"])
        axes.set_xlim(-0.35, 1.15)
        axes.margins(y=0.12)
        axes.set_ylabel(f"mean {facts.metric}")
        axes.grid(axis="x", visible=False)
        return Chart("disparity", "The gap between the roles", alt, inline(figure, alt))


def curves(facts: RunFacts) -> list[Chart]:
    """A small chart of each site's networks over the rounds, all on one scale."""
    found = {site.site: facts.curves(site.site) for site in facts.sites}
    values = [value for networks in found.values() for curve in networks.values() for _, value in curve]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values) or 1)
    limits = min(values) - margin, max(values) + margin
    return [_site_curves(facts, site.site, found[site.site], limits) for site in facts.sites if found[site.site]]


def _site_curves(facts: RunFacts, site: str, networks: Mapping[str, Curve], limits: tuple[float, float]) -> Chart:
    told = ", ".join(f"{model} {curve[0][1]:.3f} to {curve[-1][1]:.3f}" for model, curve in networks.items())
    alt = f"{facts.metric} of {site} on its validation studies from the first to the last round: {told}."
    with drawing(1.5, 2.3) as figure:
        axes = figure.add_subplot()
        for model, curve in networks.items():
            _line(axes, curve, *LINES.get(model, (INK, "solid", 1.2)))
        axes.set_ylim(*limits)
        whole_rounds(axes)
        return Chart(f"curves-{site}", site, alt, inline(figure, alt))


def rocs(facts: RunFacts) -> list[Chart]:
    """ROC curves of the deployed networks: a chart for each role, for each class where there are more than two."""
    charts = []
    classes = facts.classes
    chosen = [1] if len(classes) == 2 else list(range(len(classes)))[: 2 * MOST_CLASSES]
    for role in ROLE:
        for index in chosen:
            lines = {
                site.site: curve
                for site in facts.sites
                if site.role == role and site.site in facts.studies
                if (curve := roc(facts.studies[site.site], index)) is not None
            }
            if lines:
                charts.append(_roc(f"roc-{role}-{index}", f"{role.capitalize()} sites: {classes[index]}", role, lines))
    return charts


def _roc(name: str, title: str, role: str, lines: Mapping[str, Floats]) -> Chart:
    alt = f"ROC curves of {len(lines)} {role} sites' deployed networks. {title}. "
    alt += ", ".join(f"{site}: {_at(curve):.2f} found at 10 % false alarms" for site, curve in lines.items()) + "."
    with drawing(2.7, 2.9) as figure:
        axes = figure.add_subplot(aspect="equal")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        styles: Sequence[Any] = ("solid", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
        few = len(lines) <= len(styles)
        for place, (site, curve) in enumerate(lines.items()):
            style = styles[place] if few else "solid"
            axes.step(
                *curve,
                where="post",
                color=ROLE[role],
                linewidth=1.3,
                alpha=1 if few else 0.45,
                linestyle=style,
                label=site,
            )
        if few:
            axes.legend(loc="lower right", fontsize=8, handlelength=2.6)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        return Chart(name, title, alt, inline(figure, alt))


def _at(curve: Floats, rate: float = 0.1) -> float:
    return float(curve[1][curve[0] <= rate].max())


def dices(facts: RunFacts) -> list[Chart]:
    """The distribution of Dice scores over each site's studies, a chart a class; of their means for many classes."""
    sites = [site for site in facts.sites if site.site in facts.studies]
    scores = {site.site: dice(facts.studies[site.site]) for site in sites}
    names = facts.classes
    if len(names) > MOST_CLASSES:
        scores = {site: mean_of_defined(found, 1)[:, None] for site, found in scores.items()}
        names = ["mean over the classes"]
    roles = {site.site: site.role for site in sites}
    return [_dice(f"dice-{index}", name, index, scores, roles) for index, name in enumerate(names)]


def _dice(name: str, title: str, index: int, scores: Mapping[str, Floats], roles: Mapping[str, str]) -> Chart:
    columns = {site: found[:, index][np.isfinite(found[:, index])] for site, found in scores.items()}
    told = "; ".join(f"{site} {np.median(column):.3f}" for site, column in columns.items() if len(column))
    alt = f"Dice scores of single test studies, {title}. Medians: {told}."
    with drawing(0.7 + ROW * len(columns)) as figure:
        axes = figure.add_subplot()
        for place, (site, column) in enumerate(columns.items()):
            if not len(column):
                continue
            colour = ROLE[roles[site]]
            parts = axes.boxplot(
                column, positions=[place], orientation="horizontal", widths=0.55, sym=".", manage_ticks=False
            )
            for key, lines in parts.items():
                for line in lines:
                    line.set_color(INK if key == "medians" else colour)
                    line.set_markeredgecolor(colour)
        name_rows(axes, list(columns))
        axes.set_xlabel("Dice score of a study")
        return Chart(name, title.capitalize(), alt, inline(figure, alt))


def flows(facts: RunFacts) -> list[Chart]:
    """What each added loss term weighed over the rounds, a line a site."""
    roles = {site["name"]: site["role"] for site in facts.content.get("sites", [])}
    charts = []
    for term, sites in sorted(facts.loss_terms().items()):
        ends = ", ".join(f"{site} {curve[-1][1]:.4f}" for site, curve in sites.items())
        alt = f"Weighted mean of the {term} term over the rounds; in the last round: {ends}."
        with drawing(1.9, 2.9) as figure:
            axes = figure.add_subplot()
            for site, curve in sites.items():
                _line(axes, curve, ROLE.get(roles.get(site, ""), INK), "solid", 1.4)
            axes.set_ylim(bottom=0)
            whole_rounds(axes)
            axes.set_xlabel("round")
            charts.append(Chart(f"flow-{term}", TERMS.get(term, term), alt, inline(figure, alt)))
    return charts


TERMS = {
    "guidance": "Guidance: foundation model to small network",
    "forward": "Forward: large network to proxy, soft labels",
    "ranking": "Backward: proxy to large network, ranking only",
    "proximal": "Proximal: held near the global weights",
}


def _line(axes: Any, curve: Curve, colour: str, style: Any, width: float) -> None:
    axes.plot(
        *zip(*curve, strict=True),
        color=colour,
        linestyle=style,
        linewidth=width,
        marker="o" if len(curve) == 1 else None,
        markersize=3,
    )


def whole_rounds(axes: Any) -> None:
    """Mark whole rounds only, and few of them."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.spines["left"].set_color(GRID)
