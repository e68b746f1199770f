"""``fedhelp data scan`` and ``data check`` from the command line: exit status and one readable message."""

import json
import sys

import numpy as np
import pytest
import yaml
from conftest import write_site
from PIL import Image

from fedhelp_med.cli.main import main


def fedhelp(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhelp", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / f"data/{('normal', 'ill')[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(path)
    (tmp_path / "data/readme.txt").write_text("who, when")
    return tmp_path / "data"


def test_scan_then_check_then_a_leak(monkeypatch, capsys, pictures, tmp_path):
    out = tmp_path / "site/datalist.json"
    arguments = ("data", "scan", pictures, "--labels", "folders", "--classes", "normal,ill", "--split", "50/25/25")
    assert fedhelp(monkeypatch, *arguments, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "training" in shown and "1 x a text, not an image" in shown
    assert (tmp_path / "site/datalist.rejected.csv").read_text().count("\n") == 2

    page, facts = tmp_path / "check.html", tmp_path / "check.json"
    assert fedhelp(monkeypatch, "data", "check", out, "--json", facts, "--html", page) == 0
    assert json.loads(facts.read_text())["sound"] is True
    assert page.read_text().count("<img") == 12

    content = json.loads(out.read_text())
    (out.parent / content["testing"][0]["image"]).write_bytes(
        (out.parent / content["training"][0]["image"]).read_bytes()
    )
    capsys.readouterr()
    assert fedhelp(monkeypatch, "data", "check", out, "--json", facts) == 1
    captured = capsys.readouterr()
    assert "a leak between the splits" in captured.out
    assert captured.err.count("\n") == 1 and "training would be unsound: 1 error(s)" in captured.err
    assert json.loads(facts.read_text())["sound"] is False


def test_check_reads_a_federation_file(monkeypatch, capsys, tmp_path):
    sites = []
    for index, name in enumerate(("clinic", "hospital")):
        write_site(tmp_path / name, seed=index)
        sites.append({"name": name, "role": ("small", "large")[index], "data": f"{name}/datalist.json"})
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump({"name": "two", "rounds": 1, "sites": sites}))
    assert fedhelp(monkeypatch, "data", "check", path) == 0
    assert "clinic" in capsys.readouterr().out
    (tmp_path / "hospital/datalist.json").unlink()
    assert fedhelp(monkeypatch, "data", "check", path) == 1
    assert "this datalist does not exist" in capsys.readouterr().out
    for text, told in (("name: [", "is not valid YAML"), ("name: a\nround: 1", "round")):
        path.write_text(text)
        assert fedhelp(monkeypatch, "data", "check", path) == 2
        assert told in capsys.readouterr().err


def test_wrong_input_has_exit_status_2(monkeypatch, capsys, tmp_path):
    assert fedhelp(monkeypatch, "data", "scan", tmp_path / "none") == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    assert fedhelp(monkeypatch, "data", "scan", tmp_path / "empty", "--out", tmp_path / "d.json") == 2
    assert "no image that can be used" in capsys.readouterr().err
