"""A comparison's page: one self-contained HTML file for a browser."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from fedhelp_med.common.files import write_text
from fedhelp_med.federation.loading import SHIPPED_BUNDLES
from fedhelp_med.report import comparison_charts as charts
from fedhelp_med.report.comparison_facts import ComparisonFacts, read_facts
from fedhelp_med.report.disparity import POINT, ROUNDING
from fedhelp_med.report.numbers import signed
from fedhelp_med.report.page import Fact, render, versions_sheet
from fedhelp_med.report.privacy import public_configuration
from fedhelp_med.report.run_sheets import events_sheet
from fedhelp_med.report.sheets import Sheet

SECTIONS = (
    ("methods", "Methods"),
    ("disparity", "Who gains"),
    ("rounds", "Rounds"),
    ("deployed", "Deployment"),
    ("costs", "Costs"),
    ("events", "Events"),
    ("configuration", "Configuration"),
)


def write_comparison_pages(folder: Path) -> list[Path]:
    """Write ``report.html`` of the testing results, and ``report-validation.html`` where these were asked for.

    Raises:
        InputError: Jinja2 or matplotlib is missing, or the folder holds no comparison.
    """
    return [_write(facts) for facts in read_facts(folder)]


def _write(facts: ComparisonFacts) -> Path:
    drawn = {
        "results": charts.results(facts),
        "gains": charts.gains(facts),
        "gaps": charts.gaps(facts),
        "curves": charts.curves(facts),
    }
    events = facts.events()
    software = next((event for _, _, event in reversed(events) if event["event"] == "finished"), None)
    roles = len(charts.roles_of(facts))
    disparity = 2 if facts.gains else 0
    content = facts.configuration()
    shipped = (SHIPPED_BUNDLES / str(content.get("bundle")) / "configs").is_dir()
    told = happened(facts)
    text = render(
        "comparison.html",
        title=f"FedHelp: comparison, {facts.name}",
        kind="Comparison" if facts.split == "testing" else f"Comparison on the {facts.split} splits",
        name=facts.name,
        headline=headline(facts),
        lead=lead(facts),
        sections=[section for section in SECTIONS if section[0] != "rounds" or drawn["curves"]],
        facts=head_facts(facts),
        warnings=warnings(facts, told),
        metric=facts.metric,
        charts=drawn,
        sheets={
            "methods": facts.sheets[:roles],
            "disparity": facts.sheets[roles : roles + disparity],
            "rest": facts.sheets[roles + disparity :],
            "deployment": deployment(facts),
            "events": told,
            "versions": versions_sheet(software),
        },
        seeds=", ".join(map(str, facts.seeds)),
        reference=facts.reference,
        configuration=yaml.safe_dump(public_configuration(content, shipped), sort_keys=False, allow_unicode=True),
    )
    path = facts.folder / ("report.html" if facts.split == "testing" else f"report-{facts.split}.html")
    write_text(path, text)
    return path


def headline(facts: ComparisonFacts) -> str:
    """Return how the reference method does against the best of the others, by role."""
    told = []
    for role in charts.roles_of(facts):
        own = facts.means(facts.reference, role)
        others = [method for method in facts.methods if method != facts.reference]
        paired = {method: facts.difference(facts.reference, method, role) for method in others}
        known = [method for method in others if math.isfinite(paired[method])]
        if not own or not known:
            continue
        best = min(known, key=lambda method: paired[method])
        side = "above" if paired[best] >= 0 else "below"
        told.append(f"{role} sites {fmean(own):.3f} {facts.metric} ({abs(paired[best]):.3f} {side} {best})")
    return f"{facts.reference}: {'; '.join(told)}" if told else f"{facts.reference}: {facts.metric} by method"


def lead(facts: ComparisonFacts) -> str:
    """Return the headline's explanation."""
    sites = ", ".join(f"{list(facts.roles.values()).count(role)} {role}" for role in charts.roles_of(facts))
    seeds = f"{len(facts.seeds)} seed{'s' * (len(facts.seeds) > 1)}"
    return (
        f"{len(facts.methods)} methods, {seeds}, {sites} sites. Means over the sites of a role and over seeds, of what "
        f"each site deploys, on its {facts.split} studies; in brackets the difference to the best of the others. "
        "The tables below have intervals: a difference whose interval holds 0 may be chance."
    )


def head_facts(facts: ComparisonFacts) -> list[Fact]:
    """Return the numbers at the head of the page."""
    found = []
    for role in charts.roles_of(facts):
        if means := facts.means(facts.reference, role):
            gains = [gain.gain for gain in facts.gains if gain.method == facts.reference and gain.role == role]
            detail = f"{signed(fmean(gains))} over training alone" if gains else ""
            what = f"{facts.reference}, {role} sites, {facts.metric}"
            found.append(Fact(f"mean-{role}", what, f"{fmean(means):.3f}", detail))
    own = [gain for gain in facts.gains if gain.method == facts.reference]
    if own:
        harmed = [gain for gain in own if gain.gain < -ROUNDING]
        certain = any(gain.gain < -POINT or gain.high < 0 for gain in harmed)
        tone = "bad" if certain else "" if harmed else "good"
        found.append(Fact("harmed", "sites worse off than alone", f"{len(harmed)} of {len(own)}", tone=tone))
    return found


def deployment(facts: ComparisonFacts) -> Sheet | None:
    """Return how often sites deployed which networks; None where no method lets them choose."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    last = {(method, seed, e["site"]): e for method, seed, e in facts.events() if e["event"] == "deployment"}
    for (method, _, _), event in last.items():
        rule = "the rule" if event["default"] else "better by more than a standard error"
        counts[method, facts.roles.get(event["site"], ""), " + ".join(event["networks"]), rule] += 1
    if not counts:
        return None
    rows = tuple((*key, str(count)) for key, count in counts.items())
    note = "Decided on the sites' own validation studies; counted over sites and seeds."
    return Sheet("What sites deploy", ("method", "role", "networks", "why", "times"), rows, (note,), (0, 1, 2, 3))


def warnings(facts: ComparisonFacts, told: Sheet | None) -> list[str]:
    """Return what a reader has to know before the numbers: what failed, what is missing, what was mixed."""
    found = [f"{row[0]}: {row[3]}." for row in (told.rows if told else ()) if row[2] == "warning"]
    for method, by_seed in zip(facts.methods, facts.values, strict=True):
        for seed, values in zip(facts.seeds, by_seed, strict=True):
            missing = [site for site, value in zip(facts.roles, values, strict=True) if not math.isfinite(value)]
            if missing:
                where = "at every site" if len(missing) == len(values) else f"at {', '.join(missing)}"
                found.append(f"{method}, seed {seed}: no result {where}.")
    made_with: dict[str, set[str]] = {}
    for _, _, event in facts.events():
        for name, version in event.get("software", {}).items() if event["event"] == "finished" else ():
            made_with.setdefault(name, set()).add(str(version))
    for name, versions in made_with.items():
        if len(versions) > 1:
            found.append(f"Cells were made with different versions of {name}: {', '.join(sorted(versions))}.")
    return found


def _standing(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a cell's events without its ends, and without failures that a later run of it has mended."""
    ends = [place for place, event in enumerate(events) if event["event"] == "cell_finished"]
    mended = ends[-1] if ends else -1
    return [
        event
        for place, event in enumerate(events)
        if event["event"] not in ("finished", "cell_finished", "cell_failed")
        or (event["event"] == "cell_failed" and place > mended)
    ]


def happened(facts: ComparisonFacts) -> Sheet | None:
    """Return the events of all cells; None for nothing."""
    rows = []
    for method in facts.methods:
        for seed in facts.seeds:
            sheet = events_sheet(tuple(_standing(facts.cell(method, seed).events())))
            rows += [(f"{method}, seed {seed}", *row[1:]) for row in (sheet.rows if sheet else ())]
    if not rows:
        return None
    return Sheet("Events and warnings", ("cell", "round", "level", "what"), tuple(rows), text=(0, 2, 3))
