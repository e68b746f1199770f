"""The report of a comparison: rebuilt from what lies in its folder, wherever that is."""

import json

import pytest
from report_folders import make_comparison

from fedhelp_med.cli.report import write_reports
from fedhelp_med.common.errors import InputError
from fedhelp_med.report import comparison_charts as charts
from fedhelp_med.report.comparison_facts import read_facts
from fedhelp_med.report.comparison_page import deployment, happened, head_facts, headline, warnings

FIRST = "1,large-00,large,large,validation,auc,"


@pytest.fixture
def facts(tmp_path):
    return read_facts(make_comparison(tmp_path / "comparison"))[0]


def test_headline_names_the_best_of_the_others(facts):
    # small sites: mean of (level + seed / 50, 0.5) over two seeds; large ones 0.9 everywhere
    told = "fedhelp: small sites 0.655 AUC (0.050 above fedavg); large sites 0.900 AUC (0.000 above local)"
    assert headline(facts) == told
    values = {fact.name: fact.value for fact in head_facts(facts)}
    assert values == {"mean-small": "0.655", "mean-large": "0.900", "harmed": "0 of 3"}


def test_a_missing_result_is_left_out(tmp_path):
    folder = make_comparison(tmp_path / "comparison")
    content = json.loads((folder / "comparison.json").read_text())
    content["values"][2][0] = [None, None, None]
    (folder / "comparison.json").write_text(json.dumps(content))
    facts = read_facts(folder)[0]
    assert facts.means("fedhelp", "small") == [pytest.approx((0.82 + 0.5) / 2)]
    assert facts.means("fedhelp", "large") == [0.9]


def test_the_headline_compares_the_sites_that_both_have(tmp_path):
    folder = make_comparison(tmp_path / "comparison")
    content = json.loads((folder / "comparison.json").read_text())
    at = content["methods"].index("fedhelp")
    for values in content["values"][at]:
        values[1] = None  # the weaker small site was lost: the mean over sites rises, no difference does
    (folder / "comparison.json").write_text(json.dumps(content))
    facts = read_facts(folder)[0]
    small = headline(facts).split(";")[0]
    assert small.startswith("fedhelp: small sites 0.810 AUC (0.100 above")
    assert any(told.startswith("fedhelp, seed 0: no result at ") for told in warnings(facts, None))


def test_a_failure_that_was_mended_is_no_warning_and_mixed_versions_are(facts):
    cell = facts.cell("fedhelp", 1)
    cell.record("cell_failed", error="OSError: disk full")
    assert any("disk full" in told for told in warnings(facts, happened(facts)))
    cell.record("cell_finished", seconds=1.0)
    cell.record("finished", software={"torch": "0.0.1"})
    facts.cell("fedhelp", 0).record("finished", software={"torch": "0.0.2"})
    told = warnings(facts, happened(facts))
    assert not any("disk full" in line for line in told)
    assert any(line.startswith("Cells were made with different versions of torch: ") for line in told)


def test_curves_are_means_over_sites_and_seeds(facts):
    curve = facts.curves("large")["fedhelp"]
    assert [number for number, _ in curve] == [1, 2]  # the large network has none in round 0
    files = [facts.cell("fedhelp", seed).metrics_file for seed in (0, 1)]
    wanted = [line for path in files for line in path.read_text().splitlines() if line.startswith(FIRST)]
    assert curve[0][1] == pytest.approx(sum(float(line.removeprefix(FIRST)) for line in wanted) / 2)


def test_charts(facts):
    drawn = [*charts.results(facts), charts.gains(facts), charts.gaps(facts), *charts.curves(facts)]
    names = ["results-small", "results-large", "gains", "gaps", "curves-small", "curves-large"]
    assert [chart.name for chart in drawn] == names
    assert "fedhelp 0.655" in drawn[0].alt and "small-00 +0.200 (+0.100 to +0.300)" in drawn[2].alt
    assert charts.short("fedhelp@settings.ranking=0.1,rounds=30") == "fedhelp@settings.ranking=…"


def test_events_and_deployment_are_told_by_cell(facts):
    rows = {row[:4]: row[4] for row in deployment(facts).rows}
    assert rows["fedhelp", "large", "local", "better by more than a standard error"] == "2"
    assert ("fedhelp, seed 1", "0", "note", "the gate is open, score 0.59, threshold 0.45") in happened(facts).rows


def test_page_holds_no_path(tmp_path):
    page = write_reports(make_comparison(tmp_path / "comparison"))[0].read_text()
    assert page.count('<figure class="chart"') == 6
    assert "small-01: train failed: RuntimeError: (path)" in page and ">detectable</th>" in page
    for secret in ("/private", "secret", "Smith", str(tmp_path)):
        assert secret not in page


def test_validation_has_a_page_of_its_own(tmp_path):
    folder = make_comparison(tmp_path / "comparison", split="validation")
    assert [path.name for path in write_reports(folder)] == ["report-validation.html"]
    make_comparison(folder)
    assert [path.name for path in write_reports(folder)] == ["report.html", "report-validation.html"]


def test_an_earlier_or_damaged_comparison_is_told_how_to_go_on(tmp_path):
    folder = make_comparison(tmp_path / "comparison")
    (folder / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match=r"comparison\.json: is damaged"):
        write_reports(folder)
    (folder / "comparison.json").unlink()
    with pytest.raises(InputError, match="give the command of `fedhelp compare` again"):
        write_reports(folder)
