"""``fedhelp demo`` on real images, with a stand-in that is hardly trained: everything but the quality."""

import csv
import sys

import pytest

from fedhelp_med.cli import demo as demo_module
from fedhelp_med.cli.main import main
from fedhelp_med.common.errors import InputError
from fedhelp_med.data import make_icbm_sites

pytestmark = pytest.mark.integration

FEW = {
    "small_sites": 1,
    "large_sites": 1,
    "small_training": 4,
    "large_training": 4,
    "small_validation": 2,
    "large_validation": 2,
    "testing": 2,
    "public": 8,
    "foundation": 8,
    "foundation_validation": 2,
}


def fedhelp(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhelp", *map(str, arguments)])
    main()


@pytest.mark.parametrize("public", [False, True], ids=["near public set", "zip of another domain"])
def test_demo_on_a_medmnist_file(monkeypatch, capsys, tmp_path, shared_data, public):
    monkeypatch.setattr(demo_module, "STAND_IN_STEPS", 10)
    out = tmp_path / "demo"
    extra = ("--public", shared_data / "mednist_300_per_class.zip") if public else ()
    data = ("--data", shared_data / "pneumoniamnist.npz", "--rounds", 1, "--workers", 1)
    fedhelp(monkeypatch, "demo", "--out", out, *data, *extra)
    shown = capsys.readouterr().out
    assert "stand-in" in shown and "clinic-a" in shown and "Gap between the roles" in shown
    assert f"Results: {out}\n" in shown and shown.rstrip().endswith(f"Report: {out / 'report.html'}")
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    tested = {(row["site"], row["model"]) for row in rows if row["split"] == "testing" and row["metric"] == "auc"}
    sites = ("clinic-a", "clinic-b", "clinic-c", "clinic-d", "hospital-a", "hospital-b")
    assert {(site, model) for site in sites for model in ("local", "deployed")} <= tested
    gate = [line for line in (out / "events.jsonl").read_text().splitlines() if '"event": "gate"' in line]
    assert len(gate) == 1 and ("reason" in gate[0]) == public

    before = (out / "metrics.csv").read_bytes()
    fedhelp(monkeypatch, "demo", "--out", out, *data, *extra, "--resume")
    assert (out / "metrics.csv").read_bytes() == before
    with pytest.raises(SystemExit) as stop:
        fedhelp(monkeypatch, "demo", "--out", out, *data, *extra)
    assert stop.value.code == 2 and "holds a run already" in capsys.readouterr().err


def test_pictures_as_public_set_of_the_template_are_answered_by_its_stand_in(
    monkeypatch, capsys, tmp_path, shared_data
):
    def make_few(*arguments, **options):
        return make_icbm_sites(*arguments, **options, **FEW)

    monkeypatch.setattr("fedhelp_med.cli.examples.make_icbm_sites", make_few)
    monkeypatch.setattr(demo_module, "STAND_IN_STEPS", 10)
    out = tmp_path / "demo"
    public = shared_data / "mednist_300_per_class.zip"
    fedhelp(monkeypatch, "demo", "--out", out, "--public", public, "--rounds", 1, "--workers", 1)
    assert "asked once about 8 public images" in capsys.readouterr().out
    gate = [line for line in (out / "events.jsonl").read_text().splitlines() if '"event": "gate"' in line]
    assert len(gate) == 1 and "score" in gate[0] and "reason" not in gate[0]


def test_a_public_zip_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"x\.zip: cannot be read"):
        demo_module.run_demo(tmp_path, None, tmp_path / "x.zip", seed=0, rounds=1, workers=1, resume=False)
