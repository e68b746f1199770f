"""The charts of a comparison's page."""

import math
from statistics import fmean

from fedhelp_med.methods import ROLES
from fedhelp_med.report.charts import whole_rounds
from fedhelp_med.report.comparison_facts import ComparisonFacts
from fedhelp_med.report.numbers import interval, signed
from fedhelp_med.report.svg import INK, LARGE, MUTED, SMALL, THIRD, Chart, drawing, inline, name_rows

ROLE = {"small": SMALL, "large": LARGE}
ROW = 0.26  # inches
OTHERS = ((0, (4, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (8, 2)))
SHADES = (INK, THIRD, MUTED)
LONGEST = 26


def roles_of(facts: ComparisonFacts) -> list[str]:
    """Return the roles that have sites, small first."""
    return [role for role in ROLES if role in facts.roles.values()]


def results(facts: ComparisonFacts) -> list[Chart]:
    """What the methods reach at the sites of a role: a dot a seed, a bar for their mean."""
    charts = []
    for role in roles_of(facts):
        means = {method: facts.means(method, role) for method in facts.methods}
        told = "; ".join(f"{method} {fmean(found):.3f}" for method, found in means.items() if found)
        alt = f"Mean {facts.metric} over the {role} sites, by method: {told}."
        with drawing(0.75 + ROW * len(means)) as figure:
            axes = figure.add_subplot()
            for place, found in enumerate(means.values()):
                axes.plot(found, [place] * len(found), "o", color=ROLE[role], alpha=0.55, markersize=5)
                if found:
                    axes.plot([fmean(found)] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=2.2)
            name_rows(axes, [short(method) for method in means])
            axes.set_xlabel(f"mean {facts.metric}")
            charts.append(Chart(f"results-{role}", f"{role.capitalize()} sites", alt, inline(figure, alt)))
    return charts


def gains(facts: ComparisonFacts) -> Chart | None:
    """The gain of each site under the reference method with its interval; None where nothing is known."""
    own = [gain for gain in facts.gains if gain.method == facts.reference]
    if not own:
        return None
    known = {gain.site: interval(gain.low, gain.high) for gain in own}
    told = "; ".join(
        f"{gain.site} {signed(gain.gain)}" + f" ({known[gain.site]})" * bool(known[gain.site]) for gain in own
    )
    alt = f"Gain in {facts.metric} under {facts.reference} over training alone, with 95 % intervals: {told}."
    with drawing(0.75 + ROW * len(own)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.9)
        for place, gain in enumerate(own):
            if math.isfinite(gain.low):
                axes.plot([gain.low, gain.high], [place, place], color=ROLE[gain.role], linewidth=2.2, alpha=0.55)
            axes.plot(gain.gain, place, "o", color=ROLE[gain.role], markersize=6)
        name_rows(axes, [gain.site for gain in own])
        axes.set_xlabel(f"gain in {facts.metric}; 95 % interval")
        return Chart("gains", f"Gain of each site under {facts.reference}", alt, inline(figure, alt))


def gaps(facts: ComparisonFacts) -> Chart | None:
    """The gap between the roles under every method; None without both roles."""
    if len(roles_of(facts)) < 2:
        return None
    found = {}
    for method in facts.methods:
        large, small = facts.means(method, "large"), facts.means(method, "small")
        if large and small:
            found[method] = fmean(large) - fmean(small)
    told = "; ".join(f"{method} {gap:+.3f}" for method, gap in found.items())
    alt = f"Gap in {facts.metric}, large sites minus small ones, by method: {told}."
    with drawing(0.75 + ROW * len(found)) as figure:
        axes = figure.add_subplot()
        axes.barh(range(len(found)), list(found.values()), height=0.5, color=MUTED)
        axes.axvline(0, color=INK, linewidth=0.9)
        name_rows(axes, [short(method) for method in found])
        axes.set_xlabel(f"{facts.metric} of large sites minus small sites")
        return Chart("gaps", "The gap between the roles", alt, inline(figure, alt))


def curves(facts: ComparisonFacts) -> list[Chart]:
    """Validation results over the rounds, a line a method."""
    charts = []
    for role in roles_of(facts):
        found = facts.curves(role)
        if not found:
            continue
        told = ", ".join(f"{method} {curve[0][1]:.3f} to {curve[-1][1]:.3f}" for method, curve in found.items())
        alt = f"Mean validation {facts.metric} of {role} sites from the first to the last round: {told}."
        with drawing(2.4 + 0.16 * len(found)) as figure:
            axes = figure.add_subplot()
            for place, (method, curve) in enumerate(found.items()):
                own = method == facts.reference
                colour = ROLE[role] if own else SHADES[place % len(SHADES)]
                line = axes.plot(*zip(*curve, strict=True), color=colour, linewidth=2.4 if own else 1.3)
                line[0].set_linestyle("solid" if own else OTHERS[place % len(OTHERS)])
                line[0].set_label(short(method))
            whole_rounds(axes)
            axes.set_xlabel("round")
            axes.set_ylabel(f"validation {facts.metric}")
            figure.legend(loc="outside lower center", ncols=2, fontsize=8, handlelength=3)
            charts.append(Chart(f"curves-{role}", f"{role.capitalize()} sites", alt, inline(figure, alt)))
    return charts


def short(method: str) -> str:
    """Return a method's name as far as a chart has room for it."""
    return method if len(method) <= LONGEST else f"{method[: LONGEST - 1]}…"
