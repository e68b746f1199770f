"""Tables and intervals from cells whose results are known."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_json, write_text
from fedhelp_med.federation.comparison import make_cells
from fedhelp_med.federation.config import Foundation
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.workspace import Row
from fedhelp_med.foundation import InputSpec, Ledger, ModelDescription
from fedhelp_med.metrics import auc
from fedhelp_med.report.comparison import compare_methods, difference, read_results
from fedhelp_med.report.comparison_sheets import comparison_sheets, disparity_csv, methods_csv, networks_sheet
from fedhelp_med.report.disparity import disparities, foundation_calls, site_costs

SITES = {"clinic-a": "small", "clinic-b": "small", "hospital-a": "large", "hospital-b": "large"}
STUDIES = 40


@pytest.fixture
def cells(federation_file, tmp_path):
    """Return the cells of a comparison whose sites have 40 testing studies: ``cells("local,fedhelp", 2)``."""
    federation = load_federation(federation_file())

    def make(methods, seeds, patients=None, **changes):
        items = [{} if patients is None else {"patient": patients[index]} for index in range(STUDIES)]
        datalists = {
            name: dataclasses.replace(datalist, splits={**datalist.splits, "testing": items})
            for name, datalist in federation.datalists.items()
        }
        own = dataclasses.replace(federation, datalists=datalists, file=federation.file.model_copy(update=changes))
        return make_cells(own, methods.split(","), seeds, tmp_path / "out")

    return make


def write_values(cell, values, metric="auc"):
    """Finish a cell with the deployed networks' values by site, and no word of single studies."""
    rows = [Row(2, site, SITES[site], "deployed", "testing", metric, value) for site, value in values.items()]
    cell.workspace.finish(rows)


def write_studies(cell, scores):
    """Finish a cell from the scores of the sites' studies, which alternate between the two classes."""
    labels = np.arange(STUDIES) % 2
    values = {}
    for site, score in scores.items():
        lines = [f"{i},{label},{1 - p:.9g},{p:.9g}" for i, (label, p) in enumerate(zip(labels, score, strict=True))]
        path = cell.workspace.site(site) / "studies" / "deployed.csv"
        write_text(path, "study,label,p(a),p(b)\n" + "\n".join(lines) + "\n")
        logits = torch.tensor(np.log([1 - score, score]).T)
        values[site] = auc(logits, torch.tensor(labels))
    write_values(cell, values)


def scores(separation, seed):
    """Scores of studies whose classes lie ``separation`` standard deviations apart."""
    noise = np.random.default_rng(seed).normal(size=STUDIES)
    return 1 / (1 + np.exp(-(noise + separation * (np.arange(STUDIES) % 2))))


def all_sites(separation, seed):
    return {site: scores(separation, seed + index) for index, site in enumerate(SITES)}


def test_means_deviations_and_differences_by_hand(cells):
    own = cells("local,fedhelp", 2)
    for cell, small, large in zip(own, (0.5, 0.7, 0.7, 0.8), (0.9, 0.9, 0.8, 0.9), strict=True):
        write_values(cell, {"clinic-a": small, "clinic-b": small + 0.1, "hospital-a": large, "hospital-b": large})
    results = read_results(own)
    assert results.metric == "auc" and results.methods == ("local", "fedhelp") and results.seeds == (3, 4)
    assert not any(results.patients) and results.methods[results.reference] == "fedhelp"
    local, fedhelp = compare_methods(results, "small")
    assert local.mean == pytest.approx((0.55 + 0.75) / 2)
    assert local.deviation == pytest.approx(0.2 / np.sqrt(2))
    assert local.difference.value == pytest.approx(-0.15)  # -0.2 and -0.1: local minus FedHelp
    assert local.difference.error == pytest.approx(0.05, rel=0.05)  # the standard error of -0.2 and -0.1
    assert local.difference.freedom == 1
    assert local.difference.p == local.p_adjusted == pytest.approx(0.205, abs=0.01)  # t = 3 with one degree of freedom
    assert local.difference.detectable == pytest.approx((12.706 + 1.376) * 0.05, rel=0.06)
    assert fedhelp.difference is None


def test_methods_that_are_the_same_differ_by_nothing(cells):
    own = cells("fedavg,fedhelp", 2)
    for index, cell in enumerate(own):
        write_studies(cell, all_sites(1, seed=index // 2))
    found = compare_methods(read_results(own), "small")[0].difference
    assert (found.value, found.error, found.interval, found.p) == (0, 0, (0, 0), 1)
    assert np.isnan(found.detectable)


def test_both_methods_are_tested_on_the_same_patients(cells):
    own = cells("fedavg,fedhelp", 1)
    plain = all_sites(0.8, seed=0)
    write_studies(own[0], plain)
    write_studies(own[1], {site: score**3 for site, score in plain.items()})  # the same order of the studies
    results = read_results(own)
    assert results.draws[0].std(0).min() > 0.02
    found = compare_methods(results, "small")[0].difference
    assert (found.value, found.error, found.p) == (0, 0, 1)


def test_a_worse_method_is_found_out(cells):
    own = cells("local,fedavg,fedhelp", 3)
    for index, cell in enumerate(own):
        write_studies(cell, all_sites(2.5 if cell.method == "fedhelp" else 0.3, seed=10 * index))
    results = read_results(own)
    assert results.patients == (STUDIES,) * 4
    compared = compare_methods(results, "small")[:2]
    for found in compared:
        assert found.difference.interval[1] < -0.1 and found.difference.p < 0.01
        assert found.difference.p <= found.p_adjusted <= 2 * max(other.difference.p for other in compared)
        assert abs(found.difference.value) > found.difference.detectable > 0
    assert disparities(results)[2].sites[0].low > 0


def test_the_reference_is_the_first_fedhelp_else_the_first_method(cells):
    for methods, expected in (
        ("local,fedhelp@rounds=3,fedhelp", 1),
        ("fedavg,local", 0),
        ("local,fedavg", 1),
        ("local", 0),
        ("fedhelp-no-forward,fedhelp", 1),
    ):
        own = cells(methods, 1)
        write_values(own[0], {"clinic-a": 0.5})
        assert read_results(own).reference == expected


def test_patients_with_several_studies_count_as_one_each(cells):
    patients = [f"{index % 2}, {index // 8}" for index in range(STUDIES)]  # four studies of one class each
    names = sorted(set(patients))
    noise = dict(zip(names, np.random.default_rng(0).normal(size=len(names)), strict=True))
    score = np.array([1 / (1 + np.exp(-noise[patient] - int(patient[0]))) for patient in patients])
    alone, together = cells("fedavg,fedhelp", 1), cells("fedavg,fedhelp", 1, patients)
    write_studies(alone[0], {"clinic-a": score})
    write_studies(alone[1], {"clinic-a": np.full(STUDIES, 0.5)})
    errors = [difference(read_results(own), 0, 1, [0]).error for own in (alone, together)]
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.3)


def test_what_is_missing_is_left_out_of_both_and_named(cells):
    own = cells("fedavg,fedhelp", 2)
    everywhere = dict.fromkeys(SITES, 0.6)
    write_values(own[0], everywhere)
    write_values(own[1], dict.fromkeys(SITES, 0.7))
    write_values(own[3], {"clinic-a": 0.99})
    results = read_results(own)
    found = compare_methods(results, "small")[0]
    assert found.difference.value == pytest.approx(-0.1) and found.mean == 0.6
    notes = " ".join(comparison_sheets(results, own)[0].notes)
    assert "fedavg, seed 4" in notes and "fedhelp, seed 4" in notes and "fedavg, seed 3" not in notes
    empty = cells("fedbn,fedhelp", 1)
    write_values(empty[1], everywhere)
    alone = compare_methods(read_results(empty), "large")[0]
    assert np.isnan([alone.mean, alone.difference.value, alone.difference.p, alone.p_adjusted]).all()


def test_a_site_is_resampled_only_where_every_cell_tells_of_its_studies(cells):
    own = cells("fedavg,fedhelp", 2)
    for index, cell in enumerate(own):
        write_studies(cell, all_sites(1, seed=index))
    (own[0].workspace.site("clinic-a") / "studies" / "deployed.csv").unlink()
    results = read_results(own)
    assert results.patients == (0, STUDIES, STUDIES, STUDIES)
    assert (results.draws[..., 0] == results.values[:, None, :, 0]).all()
    note = comparison_sheets(results, own)[0].notes[0]
    assert "bootstrap over patients and seeds (single studies are not known at clinic-a" in note


def test_the_gap_before_is_that_of_local_only_and_not_of_what_another_method_has(cells):
    own = cells("fedavg,local,fedhelp", 1)
    level = {"clinic-a": 0.5, "clinic-b": 0.7, "hospital-a": 0.9, "hospital-b": 0.9}
    write_values(own[0], {site: value for site, value in level.items() if site != "clinic-b"})
    for cell in own[1:]:
        write_values(cell, level)
    titles = [sheet.title for sheet in comparison_sheets(read_results(own), own)]
    assert "Disparity (auc); gap between the roles before, under local-only: +0.300" in titles


def test_without_a_result_of_local_only_there_is_no_table_of_gains(cells):
    own = cells("local,fedhelp", 1)
    write_values(own[1], dict.fromkeys(SITES, 0.5))
    titles = [sheet.title for sheet in comparison_sheets(read_results(own), own)]
    assert len(titles) == 3 and not any("Disparity" in title for title in titles)


def test_a_cost_that_is_not_known_is_empty(cells):
    own = cells("local,fedhelp", 1)
    for cell in own:
        write_values(cell, dict.fromkeys(SITES, 0.5))
    costs = comparison_sheets(read_results(own), own)[-1]
    assert {row[2:] for row in costs.rows} == {("", "", "", "0")}


def test_notes_warn_of_choices_on_validation_and_of_shifted_classifiers(cells):
    own = cells("fedavg,fedhelp", 1, preset="recommended")
    for cell in own:
        rows = [Row(2, site, role, "deployed", "validation", "balanced_accuracy", 0.5) for site, role in SITES.items()]
        cell.workspace.finish(rows)
    notes = " ".join(comparison_sheets(read_results(own, split="validation"), own)[0].notes)
    assert "the sites chose what they deploy under fedhelp." in notes
    assert "fedhelp decides as if all classes were equally frequent" in notes


def test_the_tables_of_the_roles_are_in_a_file_with_all_digits(cells):
    own = cells("local,fedhelp", 2)
    for index, cell in enumerate(own):
        write_studies(cell, all_sites(1, seed=index))
    results = read_results(own)
    rows = list(csv.DictReader(io.StringIO(methods_csv(results))))
    assert [(row["method"], row["role"]) for row in rows] == [
        ("local", "small"), ("fedhelp", "small"), ("local", "large"), ("fedhelp", "large")
    ]  # fmt: skip
    found = compare_methods(results, "small")[0].difference
    assert float(rows[0]["difference"]) == pytest.approx(found.value, rel=1e-4)
    assert float(rows[0]["high"]) == pytest.approx(found.interval[1], rel=1e-4)
    assert float(rows[0]["p"]) == pytest.approx(found.p, rel=1e-4)
    assert rows[1]["difference"] == rows[1]["p_holm"] == ""


def test_an_area_that_is_not_defined_is_missing(cells):
    own = cells("fedavg,fedhelp", 1)
    for cell in own:
        write_values(cell, {"clinic-a": float("nan"), "clinic-b": 0.5})
    assert np.isnan(read_results(own).values[:, 0, 0]).all()
    assert compare_methods(read_results(own), "small")[0].mean == 0.5


def test_dice_is_averaged_over_the_drawn_studies_and_the_classes(cells):
    own = cells("fedavg,fedhelp", 1)
    random = np.random.default_rng(0)
    for cell in own:
        grey, white = random.uniform(0.5, 1, (2, STUDIES))
        white[3] = np.nan  # a study without the class
        lines = [f"{i},{a:.6g},{b:.6g}" for i, (a, b) in enumerate(zip(grey, white, strict=True))]
        path = cell.workspace.site("clinic-a") / "studies" / "deployed.csv"
        write_text(path, "study,dice_grey,dice_white\n" + "\n".join(lines) + "\n")
        write_values(cell, {"clinic-a": (grey.mean() + np.nanmean(white)) / 2}, "dice_mean")
    results = read_results(own)
    assert results.metric == "dice_mean" and results.patients == (STUDIES, 0, 0, 0)
    assert results.draws[0, :, 0, 0].mean() == pytest.approx(results.values[0, 0, 0], abs=0.01)
    assert 0.005 < results.draws[0, :, 0, 0].std() < 0.03


def test_a_comparison_without_a_testing_split_says_so(cells):
    own = cells("local,fedhelp", 1)
    for cell in own:
        cell.workspace.finish([Row(2, "clinic-a", "small", "deployed", "validation", "auc", 0.5)])
    with pytest.raises(InputError, match="no site has a testing split to compare on; add one"):
        read_results(own)


def test_a_metric_that_was_not_measured_is_refused(cells):
    own = cells("local,fedhelp", 1)
    with pytest.raises(InputError, match="no finished cell"):
        read_results(own)
    write_values(own[0], {"clinic-a": 0.5})
    with pytest.raises(InputError, match="--metric: 'f1' was not measured; choose one of auc"):
        read_results(own, "f1")


@pytest.fixture
def unequal(cells):
    """FedHelp gives clinic-a 5 points, takes 0.4 from clinic-b and 2 from hospital-a; one seed."""
    own = cells("local,fedhelp", 1)
    write_values(own[0], {"clinic-a": 0.60, "clinic-b": 0.70, "hospital-a": 0.90, "hospital-b": 0.80})
    write_values(own[1], {"clinic-a": 0.65, "clinic-b": 0.696, "hospital-a": 0.88, "hospital-b": 0.80})
    return own


def test_disparity_by_hand(unequal):
    local, fedhelp = disparities(read_results(unequal))
    assert fedhelp.gain("small") == pytest.approx((0.05 - 0.004) / 2)
    assert fedhelp.gain("large") == pytest.approx(-0.01)
    assert fedhelp.gap("local") == pytest.approx(0.85 - 0.65) and local.gap("deployed") == local.gap("local")
    assert fedhelp.gap("deployed") == pytest.approx(0.84 - 0.673)
    assert (fedhelp.worst.site, fedhelp.worst.deployed) == ("clinic-a", 0.65)
    assert fedhelp.harmed() == 0.5 and fedhelp.harmed(0.01) == 0.25
    assert local.harmed() == 0 and local.gain("small") == 0
    assert [site.site for site in fedhelp.sites] == list(SITES)


def test_a_point_less_is_not_more_than_a_point(cells):
    own = cells("local,fedhelp", 1)
    write_values(own[0], {"clinic-a": 0.71})
    write_values(own[1], {"clinic-a": 0.70})
    assert disparities(read_results(own))[1].harmed(0.01) == 0


def test_without_local_only_there_is_no_gain(cells):
    own = cells("fedavg,fedhelp", 1)
    for cell in own:
        write_values(cell, dict.fromkeys(SITES, 0.5))
    assert disparities(read_results(own)) == []
    titles = [sheet.title for sheet in comparison_sheets(read_results(own), own)]
    assert len(titles) == 3 and titles[0].startswith("Small sites") and titles[2].startswith("Cost")


def test_costs_are_sums_over_rounds_and_means_over_seeds(cells):
    own = cells("fedavg", 2)
    for number, cell in enumerate(own):
        write_values(cell, dict.fromkeys(SITES, 0.5))
        for round_ in (1, 2, 2):  # the record of a repeated round counts once
            spent = {site: {"bytes_sent": 100, "seconds": 1.5 + number} for site in SITES if site != "clinic-b"}
            cell.workspace.record("round", round=round_, sites=spent)
        write_json(cell.workspace.site("clinic-a") / "flops.json", {"1": 10, "2": 30})
    costs = {cost.site: cost for cost in site_costs(own)}
    assert (costs["clinic-a"].bytes_sent, costs["clinic-a"].seconds, costs["clinic-a"].flops) == (200, 4, 40)
    assert np.isnan(costs["hospital-a"].flops)
    assert np.isnan(costs["clinic-b"].seconds)


def test_the_foundation_models_calls_are_those_in_the_ledger(cells, tmp_path):
    assert foundation_calls(cells("fedhelp", 1)) is None
    spec = InputSpec(channels=1, size=(8, 8))
    model = ModelDescription(name="far", version="1", classes=("a", "b"), kind="logits", input=spec)
    with Ledger(tmp_path / "knowledge.sqlite") as ledger:
        for batch in (["one", "two"], ["three"]):
            ledger.store(ledger.claim(model, batch).call, {key: np.zeros(2, np.float32) for key in batch})
    own = cells("fedhelp", 1, foundation=Foundation(ledger=str(tmp_path / "knowledge.sqlite")))
    calls = foundation_calls(own)
    assert (calls.images, calls.calls) == (3, 2)
    write_values(own[0], dict.fromkeys(SITES, 0.5))
    costs = comparison_sheets(read_results(own), own)[-1]
    assert costs.notes == (
        "The foundation model answered 3 public images in 2 calls, before any run; no site calls it.",
    )
    assert {row[-1] for row in costs.rows} == {"0"}


def test_the_tables_are_printed_and_written_alike(unequal):
    results = read_results(unequal)
    sheets = [*comparison_sheets(results, unequal), networks_sheet(unequal, "auc")]
    for sheet in sheets:
        assert {len(row) for row in sheet.rows} == {len(sheet.columns)}
        console = Console(file=io.StringIO(), width=80)
        sheet.print(console)
        printed = console.file.getvalue()
        assert max(map(len, printed.splitlines())) <= 80
        table = [line for line in sheet.markdown().splitlines() if line.startswith("|")]
        assert len(table) == 2 + len(sheet.rows)
        for row in sheet.rows:
            assert all(cell in printed for cell in row if " " not in cell)
            assert f"| {' | '.join(row)} |" in table
    small, _, disparity, gains, _, networks = sheets
    assert small.rows[0][4:] == ("", "", "")  # one seed, no studies: nothing tells how sure this is
    assert small.title == "Small sites: auc of what they deploy, 2 sites, 1 seed"
    assert "Difference: minus fedhelp." in small.notes[0] and "nothing" in small.notes[0]
    assert small.rows[0][:4] == ("local", "0.650", "", "-0.023")
    assert disparity.title.endswith("under local-only: +0.200")
    assert disparity.rows[1] == ("fedhelp", "+0.023", "-0.010", "+0.167", "clinic-a 0.650", "", "50 %", "25 %")
    assert gains.rows[0] == ("clinic-a", "small", "0.600", "0.650", "+0.050", "")
    assert networks.rows[0] == ("local", "small", "deployed", "0.650", "")


def test_every_gain_and_cost_is_in_one_file(unequal):
    with_cost = unequal[1].workspace
    with_cost.record("round", round=1, sites={"clinic-a": {"bytes_sent": 5, "seconds": 2.5}})
    rows = list(csv.DictReader(io.StringIO(disparity_csv(read_results(unequal), unequal))))
    assert len(rows) == 8
    assert rows[4] == {
        "method": "fedhelp",
        "site": "clinic-a",
        "role": "small",
        "local": "0.600000",
        "deployed": "0.650000",
        "gain": "0.050000",
        "low": "",
        "high": "",
        "bytes_sent": "5",
        "seconds": "2.5",
        "flops": "",
    }


def test_results_do_not_depend_on_which_cells_are_read_first(cells):
    own = cells("fedavg,fedhelp", 2)
    for index, cell in enumerate(own):
        write_studies(cell, all_sites(1, seed=index))
    first, second = read_results(own), read_results(own)
    assert (first.draws == second.draws).all()
    assert json.dumps([str(found) for found in compare_methods(first, "small")]) == json.dumps(
        [str(found) for found in compare_methods(second, "small")]
    )
