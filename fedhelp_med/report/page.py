"""A run's page: one self-contained HTML file for a browser."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedhelp_med import __version__
from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_text
from fedhelp_med.report import charts
from fedhelp_med.report.examples import Example
from fedhelp_med.report.gather import RunFacts
from fedhelp_med.report.knowledge import knowledge_lines
from fedhelp_med.report.numbers import number, signed
from fedhelp_med.report.pictures import MARK_NAMES
from fedhelp_med.report.run_sheets import (
    costs_sheet,
    deployment_sheet,
    events_sheet,
    gains_sheet,
    metrics_sheet,
    roles_present,
    total_costs,
    warnings_of,
)
from fedhelp_med.report.sheets import Sheet
from fedhelp_med.report.studies import confusion
from fedhelp_med.report.svg import EXTRA

PAGE = "report.html"

SECTIONS = (
    ("gains", "Gains"),
    ("rounds", "Rounds"),
    ("right", "Right and wrong"),
    ("examples", "Examples"),
    ("flow", "Knowledge"),
    ("deployed", "Deployment"),
    ("costs", "Costs"),
    ("events", "Events"),
    ("configuration", "Configuration"),
)


@dataclass(frozen=True)
class Fact:
    """A number at the head of a page.

    Args:
        name: by which it is found.
        what: it is.
        value: the number.
        detail: what stands below it.
        tone: ``good``, ``bad`` or nothing.
    """

    name: str
    what: str
    value: str
    detail: str = ""
    tone: str = ""


def write_run_page(facts: RunFacts, examples: Sequence[Example], no_examples: str = "") -> Path:
    """Write ``report.html`` into a run folder.

    Args:
        facts: what the folder tells.
        examples: pictures.
        no_examples: why there are none.

    Raises:
        InputError: Jinja2 or matplotlib is missing.
    """
    drawn = {
        "gains": charts.gains(facts),
        "disparity": charts.disparity(facts),
        "curves": charts.curves(facts),
        "quality": charts.rocs(facts) if facts.classifies else charts.dices(facts) if facts.studies else [],
        "flows": charts.flows(facts),
    }
    sheets = {
        "gains": gains_sheet(facts),
        "metrics": metrics_sheet(facts),
        "deployment": deployment_sheet(facts),
        "costs": costs_sheet(facts),
        "events": events_sheet(facts.events),
        "versions": versions_sheet(facts.last("finished")),
    }
    name = str(facts.content.get("name", ""))
    text = render(
        "run.html",
        title=f"FedHelp: {name}",
        kind="Federated run",
        name=name,
        headline=headline(facts),
        lead=lead(facts),
        sections=SECTIONS,
        facts=head_facts(facts),
        warnings=warnings_of(facts),
        compared=any(site.local is not None for site in facts.sites),
        metric=facts.metric,
        classifies=facts.classifies,
        classes=facts.classes,
        charts=drawn,
        sheets=sheets,
        matrices=_matrices(facts),
        examples=examples,
        examples_text=examples_text(facts),
        no_examples=no_examples,
        knowledge=knowledge_lines(facts),
        costs=total_costs(facts),
        seed=facts.content.get("seed", 0),
        configuration=yaml.safe_dump(facts.configuration, sort_keys=False, allow_unicode=True),
    )
    path = facts.folder / PAGE
    write_text(path, text)
    return path


EXAMPLES = {
    "classes": "For some sites the surest right and the surest wrong answer of what they deploy. Right half: warm "
    "colours mark where the answer changes most when that part of the image is hidden.",
    "masks": "For some sites the test study that came out best and the worst: the image and the truth above, "
    "the network's answer and where they differ below.",
}


def examples_text(facts: RunFacts) -> str:
    """Return what the pictures show."""
    if facts.classifies:
        return EXAMPLES["classes"]
    colours = [f"{colour}: {name}" for colour, name in zip(MARK_NAMES, facts.classes, strict=False)]
    return f"{EXAMPLES['masks']} The colours are {', '.join(colours)}; red: different."


def headline(facts: RunFacts) -> str:
    """Return who gained what."""
    told = []
    for role in roles_present(facts):
        gain, mean = facts.summary.mean_gain(role), facts.mean(role, "deployed")
        if gain is not None:
            told.append(f"{role} sites {'gained' if gain >= 0 else 'lost'} {abs(gain):.3f}")
        else:
            told.append(f"{role} sites reach {number(mean)}")
    text = f"{', '.join(told)} {facts.metric}"
    return text[:1].upper() + text[1:]


def lead(facts: RunFacts) -> str:
    """Return the headline's explanation."""
    content = facts.content
    preset = f" ({content['preset']} preset)" if content.get("preset") else ""
    counts = ", ".join(f"{sum(site.role == role for site in facts.sites)} {role}" for role in roles_present(facts))
    text = (
        f"{content.get('method', 'fedhelp')}{preset}: {counts} sites, {content.get('rounds', len(facts.rounds))} "
        f"rounds. Means over the sites of a role, each on its own test studies"
    )
    if all(site.local is None for site in facts.sites):
        return f"{text}. No network was trained alone to compare with (`reference: local` in the federation file)."
    harmed = facts.harmed()
    if not harmed:
        return f"{text}; gains are over training alone. No site is worse off than alone."
    named = ", ".join(f"{site.site} ({signed(site.gain)})" for site in harmed)
    return f"{text}; gains are over training alone. Worse off than alone: {named}."


def head_facts(facts: RunFacts) -> list[Fact]:
    """Return the numbers at the head of the page."""
    found = []
    for role in roles_present(facts):
        gain, before, after = facts.summary.mean_gain(role), facts.mean(role, "local"), facts.mean(role, "deployed")
        if gain is None:
            found.append(Fact(f"mean-{role}", f"{role} sites, {facts.metric}", number(after)))
            continue
        tone = "good" if gain > 0 else "bad" if gain < 0 else ""
        detail = f"{number(before)} alone, {number(after)} deployed"
        found.append(Fact(f"gain-{role}", f"gain of {role} sites", signed(gain), detail, tone))
    before, after = facts.summary.gap("local"), facts.summary.gap("deployed")
    if after is not None:
        detail = "large minus small" if before is None else f"{signed(before)} alone; large minus small"
        found.append(Fact("gap", "gap between the roles", signed(after), detail))
    if any(site.local is not None for site in facts.sites):
        harmed = len(facts.harmed())
        value = f"{harmed} of {len(facts.sites)}"
        found.append(Fact("harmed", "sites worse off than alone", value, tone="bad" if harmed else "good"))
    return found


def versions_sheet(event: Mapping[str, Any] | None) -> Sheet:
    """Return what a run was made with, from the event with which it finished."""
    found = (event or {}).get("software")
    if not found:
        return Sheet("Versions", ("software", "version"), (), ("The run did not record its versions.",), (0, 1))
    rows = tuple((name, str(value)) for name, value in found.items())
    return Sheet("Versions", ("software", "version"), rows, text=(0, 1))


def _matrices(facts: RunFacts) -> dict[str, list[tuple[str, Any]]] | None:
    if not facts.classifies:
        return None
    own = {site.site: confusion(facts.studies[site.site]) for site in facts.sites if site.site in facts.studies}
    roles: list[tuple[str, Any]] = []
    for role in roles_present(facts):
        counts = [own[site.site] for site in facts.sites if site.role == role and site.site in own]
        if counts:
            roles.append((f"All {role} sites", np.sum(counts, axis=0).tolist()))
    return {"roles": roles, "sites": [(name, counts.tolist()) for name, counts in own.items()]}


def render(template: str, **values: Any) -> str:
    """Return a page from a template of this package.

    Raises:
        InputError: Jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise InputError(EXTRA) from None
    loader = PackageLoader("fedhelp_med.report", "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["heading"] = lambda column: column.replace("-\n", "").replace("\n", " ")
    made = time.strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(version=__version__, made=made, **values)
