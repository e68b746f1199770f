"""The report of a run: what is gathered, drawn and written, from folders that are made up and from a real run."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pytest
from report_folders import CLASSES, make_run

from fedhelp_med.cli.main import main
from fedhelp_med.cli.report import end_with_report, write_reports
from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.metering import metered_client
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.report import charts, examples
from fedhelp_med.report.gather import gather_run
from fedhelp_med.report.knowledge import knowledge_lines
from fedhelp_med.report.page import head_facts, headline, lead
from fedhelp_med.report.privacy import public_configuration, without_paths
from fedhelp_med.report.run_sheets import costs_sheet, deployment_sheet, events_sheet, warnings_of
from fedhelp_med.report.studies import confusion, dice, probabilities, read_studies, roc


@pytest.fixture
def run(tmp_path):
    """A run of three sites and three rounds, not on this machine's data."""
    return make_run(tmp_path / "run", small=2, large=1, rounds=3)


# what is gathered


def test_numbers_are_those_of_metrics_csv(run):
    facts = gather_run(run)
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "testing" and row["metric"] == "auc"]
    told = {(row["site"], row["model"]): float(row["value"]) for row in rows}
    assert {site.site: site.deployed for site in facts.sites} == {s: v for (s, m), v in told.items() if m == "deployed"}
    small = [told[f"small-{i:02d}", "deployed"] - told[f"small-{i:02d}", "local"] for i in range(2)]
    fact = next(fact for fact in head_facts(facts) if fact.name == "gain-small")
    assert fact.value == f"{sum(small) / 2:+.3f}"
    assert headline(facts).startswith(f"Small sites gained {sum(small) / 2:.3f}, large sites ")


def test_a_loss_is_called_a_loss_and_the_site_is_named(run):
    text = (run / "metrics.csv").read_text().splitlines()
    text = [re.sub(r"[\d.]+$", "0.100000", line) if ",deployed,testing,auc," in line else line for line in text]
    (run / "metrics.csv").write_text("\n".join(text) + "\n")
    facts = gather_run(run)
    assert headline(facts).startswith("Small sites lost ")
    assert "Worse off than alone: small-00 (-" in lead(facts)
    assert next(fact.value for fact in head_facts(facts) if fact.name == "harmed") == "3 of 3"


def test_costs_count_a_repeated_round_once(run):
    before = costs_sheet(gather_run(run)).rows
    lines = (run / "events.jsonl").read_text().splitlines()
    rounds = [line for line in lines if '"round", "round": 3' in line]
    with (run / "events.jsonl").open("a") as file:
        file.write(rounds[0] + "\n")
    facts = gather_run(run)
    assert costs_sheet(facts).rows == before
    assert ("3", "note", "the round was repeated after an interruption") in [
        row[1:] for row in events_sheet(facts.events).rows
    ]


def test_the_end_of_the_servers_distillation_is_told(run):
    event = {"event": "distillation_ended", "round": 2, "reason": "the sites are past the warm start"}
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    facts = gather_run(run)
    assert knowledge_lines(facts).count(
        "From round 2 on the server distilled no more: the sites are past the warm start."
    )
    assert ("2", "note", "no more distillation at the server: the sites are past the warm start") in [
        row[1:] for row in events_sheet(facts.events).rows
    ]


def test_flow_deployment_and_warnings(run):
    facts = gather_run(run)
    assert facts.loss_terms()["forward"] == {"large-00": [(1, 0.0), (2, 0.01), (3, 0.02)]}
    lines = " ".join(knowledge_lines(facts))
    assert "The gate is open" in lines and "0.59" in lines and "always 0): ranking" in lines
    assert "quality cannot be told here" in lines
    rows = {row[0]: row for row in deployment_sheet(facts).rows}
    assert rows["small-00"][1:3] == (
        "surrogate + global",
        "the method's rule; nothing was better by more than a standard error",
    )
    assert rows["large-00"][1:3] == ("local", "better than large + global")
    assert any("small-01: train failed: RuntimeError: (path)" in line for line in warnings_of(facts))


def test_an_unfinished_run_is_refused(run):
    (run / "testing.json").unlink()
    with pytest.raises(InputError, match="not finished; go on with"):
        gather_run(run)


def test_a_damaged_metrics_file_is_named(run):
    (run / "metrics.csv").write_text("round,site\n1,a\n")
    with pytest.raises(InputError, match=r"metrics\.csv: is damaged"):
        gather_run(run)


# studies


def test_roc_and_confusion_by_hand(tmp_path):
    path = tmp_path / "deployed.csv"
    path.write_text("study,label,p(no),p(yes)\n0,0,0.9,0.1\n1,1,0.4,0.6\n2,0,0.4,0.6\n3,1,0.8,0.2\n4,1,0,1\n")
    table = read_studies(path)
    assert confusion(table).tolist() == [[1, 1], [1, 2]]
    # scores 1 | 0.6 0.6 (one of each kind, passed together) | 0.2 | 0.1
    assert pytest.approx(np.array([[0, 0], [0, 1 / 3], [0.5, 2 / 3], [0.5, 1], [1, 1]])) == roc(table, 1).T
    assert probabilities(table).shape == (5, 2)
    table["label"] = np.ones(5)
    assert roc(table, 1) is None


def test_long_curves_are_thinned_but_keep_their_ends():
    random = np.random.default_rng(0)
    scores = random.random(5000)
    table = {"label": (random.random(5000) < scores).astype(float), "p(no)": 1 - scores, "p(yes)": scores}
    curve = roc(table, 1)
    assert curve.shape[1] <= 100
    assert curve[:, 0].tolist() == [0, 0] and curve[:, -1].tolist() == [1, 1]


def test_undefined_dice_is_kept_apart(tmp_path):
    path = tmp_path / "deployed.csv"
    path.write_text("study,dice_grey_matter,dice_white_matter\n0,0.5,nan\n1,0.7,0.9\n")
    assert np.isnan(dice(read_studies(path))[0, 1])
    assert read_studies(tmp_path / "none.csv") is None


# charts


def test_every_chart_tells_what_it_shows_and_follows_the_theme(run):
    facts = gather_run(run)
    drawn = [
        charts.gains(facts),
        charts.disparity(facts),
        *charts.curves(facts),
        *charts.rocs(facts),
        *charts.flows(facts),
    ]
    names = [chart.name for chart in drawn]
    assert len(set(names)) == len(names)
    assert {"gains", "disparity", "curves-small-00", "roc-small-1", "roc-large-1", "flow-forward"} <= set(names)
    for chart in drawn:
        assert chart.svg.startswith("<svg viewBox=") and 'role="img"' in chart.svg and chart.svg.endswith("</svg>")
        assert "var(--ink)" in chart.svg and "#0000" not in chart.svg.replace("#000000", "")
        assert "metadata" not in chart.svg and "font-family" not in chart.svg
        assert len(chart.alt) > 30
    site = facts.sites[0]
    assert f"small-00 (small) {site.local:.3f} alone, {site.deployed:.3f}" in drawn[0].alt


def test_charts_of_masks(tmp_path):
    facts = gather_run(make_run(tmp_path / "masks", small=2, large=1, rounds=2, masks=True))
    assert [chart.title for chart in charts.dices(facts)] == ["Grey matter", "White matter"]
    assert facts.metric == "Dice" and not facts.classifies


def test_without_reference_there_is_no_gap_before(tmp_path):
    facts = gather_run(make_run(tmp_path / "run", small=2, large=1, rounds=1, reference=False))
    assert charts.disparity(facts) is None
    assert headline(facts).startswith("Small sites reach ")


# privacy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FileNotFoundError: No such file: '/data/John Smith/ct.nii.gz'", "FileNotFoundError: No such file: (path)"),
        ("reading /data/John Smith Jr/ct 1.nii.gz failed", "reading (path) failed"),
        (r"RuntimeError: C:\Patients\Smith.dcm is odd", "RuntimeError: (path) is odd"),
        ("smith.dcm cannot be read", "(path) cannot be read"),
        ("loss is not finite; lower the learning rate", "loss is not finite; lower the learning rate"),
        ("first line\nTraceback: /home/x", "first line"),
        ("", ""),
    ],
)
def test_messages_lose_their_paths(text, told):
    assert without_paths(text) == told


def test_the_configuration_loses_its_paths():
    content = {
        "bundle": "/opt/mine/bundle",
        "public": {"data": "public.json"},
        "foundation": {"ledger": "knowledge.sqlite", "model": "F 1"},
        "tracking": {"mlflow": "https://user:secret@host"},
        "overrides": {"batch_size": 4, "weights": "/home/me/w.pt"},
        "sites": [{"name": "a", "role": "small", "data": "datalist"}],
    }
    hidden = public_configuration(content, shipped=False)
    assert hidden["overrides"] == {"batch_size": 4, "weights": "(path)"} and hidden["foundation"]["model"] == "F 1"
    assert not re.search(r"opt|mine|public\.json|sqlite|secret|home|datalist", json.dumps(hidden))
    assert content["public"]["data"] == "public.json"  # the original is untouched
    assert (
        public_configuration({"bundle": "fedhelp_classification"}, shipped=True)["bundle"] == "fedhelp_classification"
    )


# the page


def test_page_of_a_moved_run(run, tmp_path):
    page = write_reports(run)[0].read_text()
    assert page.count('<figure class="chart"') == 2 + 3 + 2 + 2
    assert "not on this machine" in page and "data:image" not in page
    for secret in ("/private", "secret", "Smith", str(tmp_path)):
        assert secret not in page
    assert 'src="http' not in page and 'href="http' not in page and "<script" not in page
    for label in CLASSES:
        assert f"said {label}" in page
    assert ">torch</th><td>2.13.0</td>" in page


def test_names_are_escaped(tmp_path):
    page = write_reports(make_run(tmp_path / "run", small=1, large=1, rounds=1, name="<script>alert(1)</script>"))[0]
    assert "<script>" not in page.read_text()


def test_fedhelp_report_says_where_it_is(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedhelp", "report", str(run)])
    main()
    assert capsys.readouterr().out.replace("\n", "") == f"Report: {run / 'report.html'}"
    monkeypatch.setattr(sys, "argv", ["fedhelp", "report", str(run.parent)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "neither a run nor a comparison" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_work_ends_well_and_names_it(run, monkeypatch, capsys, missing):
    from rich.console import Console

    monkeypatch.setitem(sys.modules, missing, None)
    end_with_report(Console(), run)
    assert "pip install 'fedhelp-med[report]'" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"fedhelp-med\[report\]"):
        write_reports(run)


@pytest.mark.integration
def test_a_real_run_shows_examples_until_its_data_are_gone(federation_file, tmp_path):
    path = federation_file(reference="local")
    workspace = run_federation(load_federation(path), tmp_path / "run", create=metered_client)
    facts = gather_run(workspace.root)
    assert all(cost[4] for cost in costs_sheet(facts).rows)
    assert facts.rounds[1]["sites"]["clinic-a"]["loss"] > 0
    page = write_reports(workspace.root)[0].read_text()
    shown = page.count("data:image/png;base64,")
    assert shown == len(examples.find_examples(facts)) >= 4  # of four sites, an answer is right or wrong
    assert "Python" in page and str(tmp_path) not in page and "testing-0" not in page
    assert write_reports(workspace.root, examples=False)[0].read_text().count("data:image") == 0
    shutil.rmtree(tmp_path / "sites")
    assert "data:image" not in write_reports(workspace.root)[0].read_text()


def test_a_lost_site_is_told_with_the_round_that_was_under_way():
    events = (
        {"event": "round", "round": 1},
        {"event": "site_lost", "site": "hospital-a", "step": "train"},
        {"event": "job_failed", "error": "hospital-a: its process is gone; submit the job again to go on"},
        {"event": "job_submitted_again", "sites": ["hospital-a"], "attempt": 2},
        {"event": "round", "round": 2},
    )
    assert [row[1:] for row in events_sheet(events).rows] == [
        ("2", "warning", "hospital-a fell silent during train"),
        ("2", "warning", "job failed: hospital-a: its process is gone; submit the job again to go on"),
        ("", "note", "the job was submitted again, after hospital-a had been lost"),
    ]
