"""The tables of a comparison."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from statistics import fmean, stdev

from fedhelp_med.federation.comparison import Cell
from fedhelp_med.methods import ROLES
from fedhelp_med.report.comparison import MethodResult, Results, compare_methods
from fedhelp_med.report.disparity import POINT, Disparity, SiteCost, SiteGain, disparities, foundation_calls, site_costs
from fedhelp_med.report.sheets import Sheet


def comparison_sheets(results: Results, cells: Sequence[Cell]) -> list[Sheet]:
    """Return the tables that ``fedhelp compare`` prints."""
    sheets = [_methods(results, role) for role in ROLES if results.places(role)]
    if found := disparities(results):
        sheets += [_disparity(results, found), _gains(results, found[results.reference])]
    return [*sheets, _costs(cells)]


def networks_sheet(cells: Sequence[Cell], metric: str) -> Sheet:
    """Return the results of all networks, not only the deployed ones: mean and deviation over seeds."""
    values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for cell in cells:
        for row in cell.workspace.final():
            if row.metric == metric and math.isfinite(row.value):
                key = (cell.method, row.role, row.model)
                values.setdefault(key, {}).setdefault(cell.seed, []).append(row.value)
    rows = []
    for (method, role, model), by_seed in values.items():
        means = [fmean(sites) for sites in by_seed.values()]
        deviation = stdev(means) if len(means) > 1 else math.nan
        rows.append((method, role, model, _number(fmean(means)), _number(deviation)))
    title = f"All networks: {metric} on the testing splits"
    return Sheet(title, ("method", "role", "network", "mean", "sd"), tuple(rows), text=(0, 1, 2))


def disparity_csv(results: Results, cells: Sequence[Cell]) -> str:
    """Return every method's gain and cost at every site, a line each."""
    costs = {(cost.method, cost.site): cost for cost in site_costs(cells)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(SiteGain)] + [field.name for field in fields(SiteCost)][3:])
    for disparity in disparities(results):
        for gain in disparity.sites:
            method, site, role, *numbers = astuple(gain)
            cost = costs[method, site]
            writer.writerow(
                [method, site, role, *(f"{number:.6f}" for number in numbers)]
                + [f"{number:.6g}" for number in (cost.bytes_sent, cost.seconds, cost.flops)]
            )
    return text.getvalue()


def _methods(results: Results, role: str) -> Sheet:
    reference = results.methods[results.reference]
    seeds = len(results.seeds)
    resampled = "patients and seeds" if results.patients else "seeds (a method kept no results of single studies)"
    if seeds == 1:
        resampled = "patients only: one seed tells nothing of other seeds" if results.patients else "nothing"
    notes = [
        f"Mean over sites, then mean and standard deviation over seeds. Difference: minus {reference}. "
        f"Interval: bootstrap over {resampled}.",
        f"p: sign-flip test over the (seed, site) pairs, Holm's correction for {len(results.methods) - 1} methods. "
        "Detectable: the smallest true difference found with 80 % power.",
    ]
    missing = {
        f"{method}, seed {seed}"
        for method, by_seed in zip(results.methods, results.values, strict=True)
        for seed, values in zip(results.seeds, by_seed, strict=True)
        if not all(math.isfinite(values[place]) for place in results.places(role))
    }
    if missing:
        notes.append(f"Without a result at every site, and compared over what both methods have: {'; '.join(missing)}.")
    counted = f"{_count(len(results.places(role)), 'site')}, {_count(seeds, 'seed')}"
    return Sheet(
        f"{role.capitalize()} sites: {_measured(results)} of what they deploy, {counted}",
        ("method", "mean", "sd", "difference", "95 % interval", "p\n(Holm)", "detect-\nable"),
        tuple(_method_row(found) for found in compare_methods(results, role)),
        tuple(notes),
    )


def _method_row(found: MethodResult) -> tuple[str, ...]:
    row = (found.method, _number(found.mean), _number(found.deviation))
    if found.difference is None:
        return (*row, "", "", "", "")
    low, high = found.difference.low, found.difference.high
    p = "" if math.isnan(found.p_adjusted) else f"{found.p_adjusted:.3f}" if found.p_adjusted >= 0.001 else "<0.001"
    return (*row, _signed(found.difference.value), _interval(low, high), p, _number(found.detectable))


def _disparity(results: Results, found: Sequence[Disparity]) -> Sheet:
    rows = []
    for own in found:
        worst, least = own.worst, own.least_certain
        rows.append(
            (
                own.method,
                *(_signed(own.gain(role)) for role in ROLES),
                _signed(own.gap("deployed")),
                "" if worst is None else f"{worst.site} {_number(worst.deployed)}",
                "" if least is None else _signed(least.low),
                _share(own.harmed()),
                _share(own.harmed(POINT)),
            )
        )
    before = _signed(found[0].gap("local"))
    return Sheet(
        f"Disparity ({_measured(results)}); gap between the roles before, under local-only: {before or 'none'}",
        (
            "method",
            "gain,\nsmall",
            "gain,\nlarge",
            "gap\nafter",
            "worst site",
            "lowest\nbound",
            "harmed",
            "by > 1\npoint",
        ),
        tuple(rows),
        (
            "Gain: deployed minus local-only. Gap: large sites minus small ones. "
            "Lowest bound: of the 95 % intervals of all sites' gains. Harmed: share of sites below local-only.",
        ),
        (0, 5),
    )


def _gains(results: Results, disparity: Disparity) -> Sheet:
    rows = tuple(
        (
            site.site,
            site.role,
            _number(site.local),
            _number(site.deployed),
            _signed(site.gain),
            _interval(site.low, site.high),
        )
        for site in disparity.sites
    )
    columns = ("site", "role", "local-only", "deployed", "gain", "95 % interval")
    return Sheet(f"Gain of each site under {disparity.method} ({_measured(results)})", columns, rows, text=(0, 1))


def _costs(cells: Sequence[Cell]) -> Sheet:
    costs = site_costs(cells)
    rows = []
    for method in dict.fromkeys(cost.method for cost in costs):
        for role in ROLES:
            own = [cost for cost in costs if cost.method == method and cost.role == role]
            if own:
                amounts = (fmean(getattr(cost, name) for cost in own) for name in ("bytes_sent", "seconds", "flops"))
                sent, seconds, flops = amounts
                rows.append((method, role, f"{sent / 1e6:.2f}", f"{seconds:.1f}", f"{flops / 1e9:.1f}", "0"))
    calls = foundation_calls(cells)
    asked = (
        "No foundation model."
        if calls is None
        else f"The foundation model answered {calls.images} public images in {calls.calls} calls, before any run; "
        "no site calls it."
    )
    return Sheet(
        "Cost of a whole run, mean over the sites of a role and over seeds",
        ("method", "role", "MB sent", "seconds", "GFLOP", "foundation\ncalls"),
        tuple(rows),
        (asked,),
        (0, 1),
    )


def _measured(results: Results) -> str:
    return results.metric if results.split == "testing" else f"{results.split} {results.metric}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.3f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f} %"
