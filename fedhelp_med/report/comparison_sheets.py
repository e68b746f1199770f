"""The tables of a comparison."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from statistics import fmean, stdev

import numpy as np

from fedhelp_med.federation.comparison import Cell
from fedhelp_med.methods import ROLES
from fedhelp_med.report.comparison import MethodResult, Results, compare_methods
from fedhelp_med.report.disparity import POINT, Disparity, SiteGain, disparities, foundation_calls, site_costs
from fedhelp_med.report.numbers import interval, number, signed
from fedhelp_med.report.sheets import Sheet
from fedhelp_med.report.statistics import mean_of_defined


def comparison_sheets(results: Results, cells: Sequence[Cell]) -> list[Sheet]:
    """Return the tables that ``fedhelp compare`` prints."""
    sheets = [_methods(results, role, cells) for role in ROLES if results.places(role)]
    found = disparities(results)
    if any(own.sites for own in found):
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
        rows.append((method, role, model, number(fmean(means)), number(deviation)))
    title = f"All networks: {metric} on the testing splits"
    return Sheet(title, ("method", "role", "network", "mean", "sd"), tuple(rows), text=(0, 1, 2))


def disparity_csv(results: Results, cells: Sequence[Cell]) -> str:
    """Return every method's gain and cost at every site, a line each; what is not known is empty."""
    gains = {(gain.method, gain.site): gain for own in disparities(results) for gain in own.sites}
    amounts = [field.name for field in fields(SiteGain)][3:]
    rows = []
    for cost in site_costs(cells):
        gain = gains.get((cost.method, cost.site))
        known = [math.nan] * len(amounts) if gain is None else [getattr(gain, name) for name in amounts]
        spent = (cost.bytes_sent, cost.seconds, cost.flops)
        rows.append((cost.method, cost.site, cost.role, *(_text(value, "6f") for value in known), *map(_text, spent)))
    return _csv(("method", "site", "role", *amounts, "bytes_sent", "seconds", "flops"), rows)


def methods_csv(results: Results) -> str:
    """Return what the tables of the roles show, with all digits."""
    rows = []
    for role in ROLES:
        for found in compare_methods(results, role) if results.places(role) else ():
            own = found.difference
            told = (
                (math.nan,) * 6 if own is None else (own.value, *own.interval, own.p, found.p_adjusted, own.detectable)
            )
            rows.append((found.method, role, *map(_text, (found.mean, found.deviation, *told))))
    header = ("method", "role", "mean", "sd", "difference", "low", "high", "p", "p_holm", "detectable")
    return _csv(header, rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((header, *rows))
    return text.getvalue()


def _text(value: float, form: str = "6g") -> str:
    return "" if math.isnan(value) else f"{value:.{form}}"


def _methods(results: Results, role: str, cells: Sequence[Cell]) -> Sheet:
    found = compare_methods(results, role)
    counted = f"{_count(len(results.places(role)), 'site')}, {_count(len(results.seeds), 'seed')}"
    return Sheet(
        f"{role.capitalize()} sites: {_measured(results)} of what they deploy, {counted}",
        ("method", "mean", "sd", "difference", "95 % interval", "p\n(Holm)", "detect-\nable"),
        tuple(_method_row(own) for own in found),
        tuple(_method_notes(results, role, found, cells)),
    )


def _method_notes(results: Results, role: str, found: Sequence[MethodResult], cells: Sequence[Cell]) -> Iterator[str]:
    tested = sum(own.difference is not None and not math.isnan(own.difference.p) for own in found)
    yield (
        "Mean over sites, then mean and standard deviation over seeds. Difference: minus "
        f"{results.methods[results.reference]}. Interval: bootstrap over {_resampled(results, role)}."
    )
    yield (
        f"p: t test of the difference, Holm's correction for {_count(tested, 'method')}. "
        "Detectable: the smallest true difference found with 80 % power, uncorrected."
    )
    missing = dict.fromkeys(
        f"{method}, seed {seed}"
        for method, by_seed in zip(results.methods, results.values, strict=True)
        for seed, values in zip(results.seeds, by_seed, strict=True)
        if not all(math.isfinite(values[place]) for place in results.places(role))
    )
    if missing:
        yield f"Without a result at every site, and compared over what both methods have: {'; '.join(missing)}."
    if results.split == "validation" and (choosing := _methods_that(cells, "chooses")):
        yield (
            "Too good by what choosing brings: on these studies the sites chose what they deploy under "
            f"{', '.join(choosing)}."
        )
    if results.metric in ("accuracy", "balanced_accuracy") and (shifted := _methods_that(cells, "balances")):
        yield (
            f"{', '.join(shifted)} decides as if all classes were equally frequent; the others at the frequencies of "
            "their training images, which this metric sees."
        )


def _methods_that(cells: Sequence[Cell], trait: str) -> list[str]:
    return list(dict.fromkeys(cell.method for cell in cells if getattr(cell.federation.method, trait)))


def _resampled(results: Results, role: str) -> str:
    without = [results.sites[place] for place in results.places(role) if not results.patients[place]]
    everywhere = len(without) == len(results.places(role))
    if len(results.seeds) == 1:
        known = "nothing" if everywhere else "patients only: one seed tells nothing of other seeds"
    else:
        known = "seeds only" if everywhere else "patients and seeds"
    named = "" if everywhere else f" at {', '.join(without)}"
    return known + (f" (single studies are not known{named}, or not in this metric)" if without else "")


def _method_row(found: MethodResult) -> tuple[str, ...]:
    own = found.difference
    row = (found.method, number(found.mean), number(found.deviation))
    if own is None:
        return (*row, "", "", "", "")
    p = "" if math.isnan(found.p_adjusted) else f"{found.p_adjusted:.3f}" if found.p_adjusted >= 0.001 else "<0.001"
    return (*row, signed(own.value), interval(*own.interval), p, number(own.detectable))


def _disparity(results: Results, found: Sequence[Disparity]) -> Sheet:
    rows = []
    for own in found:
        worst, least = own.worst, own.least_certain
        rows.append(
            (
                own.method,
                *(signed(own.gain(role)) for role in ROLES),
                signed(own.gap("deployed")),
                "" if worst is None else f"{worst.site} {number(worst.deployed)}",
                "" if least is None else signed(least.low),
                _share(own.harmed()),
                _share(own.harmed(POINT)),
            )
        )
    local = results.find("local")
    before = "" if local is None else signed(found[local].gap("local"))
    told = f"; gap between the roles before, under local-only: {before}" if before else ""
    return Sheet(
        f"Disparity ({_measured(results)}){told}",
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
            number(site.local),
            number(site.deployed),
            signed(site.gain),
            interval(site.low, site.high),
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
                spent = np.array([(cost.bytes_sent / 1e6, cost.seconds, cost.flops / 1e9) for cost in own])
                sent, seconds, flops = mean_of_defined(spent, 0).tolist()
                rows.append((method, role, _text(sent, "2f"), _text(seconds, "1f"), _text(flops, "1f"), "0"))
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


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f} %"
