"""The tables of a run's page."""

from collections.abc import Mapping
from typing import Any

from fedhelp_med.methods import ROLES
from fedhelp_med.report.gather import RunFacts
from fedhelp_med.report.numbers import number, signed
from fedhelp_med.report.privacy import without_paths
from fedhelp_med.report.sheets import Sheet


def gains_sheet(facts: RunFacts) -> Sheet:
    """Who gained what."""
    with_reference = any(site.local is not None for site in facts.sites)
    with_large = any(site.large is not None for site in facts.sites)
    columns = ["site", "role", *(["alone"] if with_reference else []), "deployed"]
    columns += (["gain"] if with_reference else []) + (["large network"] if with_large else [])
    rows = []
    for site in facts.sites:
        row = [site.site, site.role, *([number(site.local)] if with_reference else []), number(site.deployed)]
        rows.append((*row, *([signed(site.gain)] if with_reference else []), *([number(site.large)] * with_large)))
    notes = ["Alone: a network of the site's own size, trained on its own data only. "] if with_reference else []
    return Sheet(f"{facts.metric} on each site's own test studies", tuple(columns), tuple(rows), tuple(notes), (0, 1))


def metrics_sheet(facts: RunFacts) -> Sheet:
    """All that was measured on the testing splits, of every network."""
    metrics = sorted({row.metric for row in facts.rows if row.split == "testing"})
    values = {(row.site, row.model, row.metric): row.value for row in facts.rows if row.split == "testing"}
    pairs = dict.fromkeys((site.site, model) for site in facts.sites for name, model, _ in values if name == site.site)
    rows = [(site, model, *(number(values.get((site, model, metric))) for metric in metrics)) for site, model in pairs]
    names = tuple(metric.replace("_", " ") for metric in metrics)
    return Sheet("All networks on the testing splits", ("site", "network", *names), tuple(rows), text=(0, 1))


def deployment_sheet(facts: RunFacts) -> Sheet | None:
    """Which networks each site deploys, and the evidence; None where the method lets no site choose."""
    told = {event["site"]: event for event in facts.events if event["event"] == "deployment"}
    if not told:
        return None
    rows = []
    for site in facts.sites:
        if (event := told.get(site.site)) is None:
            continue
        chosen = " + ".join(event["networks"])
        evidence: Mapping[str, Mapping[str, float | None]] = event["evidence"]
        default = next(iter(evidence))
        others = ", ".join(_compared(name, found) for name, found in evidence.items() if name != default)
        reason = (
            "the method's rule; nothing was better by more than a standard error"
            if event["default"]
            else f"better than {default}"
        )
        rows.append((site.site, chosen, reason, number(evidence[default]["score"]), others))
    return Sheet(
        "What each site deploys, and why",
        ("site", "deploys", "reason", "validation score of the rule", "others, minus the rule"),
        tuple(rows),
        (
            "Decided on the site's own validation studies. A network replaces the rule only if it is better by more "
            "than one standard error (after ±; ? where the studies are too few for one) of the difference. The testing "
            "studies have no part in it.",
        ),
        (0, 1, 2, 4),
    )


def _compared(name: str, found: Mapping[str, float | None]) -> str:
    difference, error = found["difference"], found["standard_error"]
    if difference is None:
        return f"{name} not defined"
    return f"{name} {difference:+.3f} ± {'?' if error is None else f'{error:.3f}'}"


def costs_sheet(facts: RunFacts) -> Sheet:
    """What the run cost each site."""
    rows = []
    for site in facts.sites:
        costs = facts.costs(site.site)
        flops = "" if costs.flops is None else f"{costs.flops / 1e9:.1f}"
        rows.append((site.site, site.role, f"{costs.sent / 1e6:.2f}", f"{costs.seconds:.1f}", flops, "0"))
    return Sheet(
        "Cost of the whole run",
        ("site", "role", "MB sent", "seconds", "GFLOP", "foundation calls"),
        tuple(rows),
        (
            "Sent: uploaded updates. Seconds: training with the validation after each round, while other sites of the "
            "same machine may have worked too. GFLOP: of training; empty where it was not counted.",
        ),
        (0, 1),
    )


def total_costs(facts: RunFacts) -> str:
    """Return the sum over all sites in a sentence."""
    costs = [facts.costs(site.site) for site in facts.sites]
    told = [f"{sum(cost.sent for cost in costs) / 1e6:.1f} MB sent", f"{sum(cost.seconds for cost in costs):.0f} s"]
    counted = [cost.flops for cost in costs if cost.flops is not None]
    if len(counted) == len(costs):
        told.append(f"{sum(counted) / 1e12:.2f} TFLOP")
    return f"All sites together: {', '.join(told)}."


def events_sheet(events: tuple[Mapping[str, Any], ...]) -> Sheet | None:
    """What happened besides ordinary rounds; None for nothing."""
    seen: set[int] = set()
    rows = []
    for event in events:
        kind = event["event"]
        if kind == "round":
            if event["round"] in seen:
                rows.append((_time(event), str(event["round"]), "note", "the round was repeated after an interruption"))
            seen.add(event["round"])
        elif kind != "deployment":
            level, what = _told(event)
            under_way = max(seen, default=0) + 1 if level == "warning" else ""  # an event of a job knows no round
            rows.append((_time(event), str(event.get("round", under_way)), level, what))
    if not rows:
        return None
    columns = ("time", "round", "level", "what")
    return Sheet("Events and warnings", columns, tuple(rows), text=(0, 2, 3))


def _time(event: Mapping[str, Any]) -> str:
    return str(event.get("time", ""))[:19].replace("T", " ")


def _told(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return level and sentence of an event."""
    kind = event["event"]
    error = without_paths(str(event.get("error", "")))
    reason = f": {event['reason']}" if "reason" in event else ""
    if kind == "gate":
        score = f", score {event['score']:.2f}, threshold {event['threshold']:.2f}" if "score" in event else ""
        is_open = bool(event["open"])
        return ("note" if is_open else "warning"), f"the gate is {'open' if is_open else 'shut'}{score}{reason}"
    if kind == "warm_start":
        return "note", f"warm start, {event.get('steps', 0)} steps{reason}"
    if kind == "distillation_ended":
        return "note", f"no more distillation at the server{reason}"
    if kind == "site_lost":
        return "warning", f"{event['site']} fell silent during {event['step']}"
    if kind == "job_submitted_again":
        return "note", f"the job was submitted again, after {', '.join(event['sites'])} had been lost"
    if kind == "site_failed":
        return "warning", f"{event.get('site', 'a site')}: {event.get('step', 'a step')} failed: {error or 'no answer'}"
    plain = kind.replace("_", " ")
    return ("warning", f"{plain}: {error}") if error or "failed" in kind else ("note", plain)


def warnings_of(facts: RunFacts) -> list[str]:
    """Return what a reader should know before trusting the numbers."""
    found = []
    if sheet := events_sheet(facts.events):
        found += [f"Round {row[1]}: {row[3]}." for row in sheet.rows if row[2] == "warning"]
    trained = {site["name"] for site in facts.content.get("sites", [])}
    if missing := sorted(trained - {site.site for site in facts.sites}):
        found.append(f"No testing result of {', '.join(missing)}.")
    small = [site for site, table in facts.studies.items() if len(next(iter(table.values()))) < FEW]
    if small:
        found.append(f"Fewer than {FEW} test studies at {', '.join(small)}: their numbers move much by chance.")
    return found


FEW = 30


def roles_present(facts: RunFacts) -> list[str]:
    """Return the roles that have sites, small first."""
    return [role for role in ROLES if any(site.role == role for site in facts.sites)]
