"""A comparison: fair cells, no finished cell repeated, the same bytes whatever happens."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fedhelp_med.cli.main import main
from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import alone_in
from fedhelp_med.federation.comparison import make_cells, method_names, run_cells
from fedhelp_med.federation.loading import SHIPPED_BUNDLES, load_federation, save_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.methods import METHODS
from fedhelp_med.methods.fedavg import FedAvgSettings
from fedhelp_med.report.comparison import read_results

COMPARED = "local,fedavg@rounds=1,fedhelp"
COMMAND = "import sys; from fedhelp_med.cli.main import main; sys.argv[0] = 'fedhelp'; main()"


class Watching:
    """An observer that remembers."""

    def __init__(self):
        self.done, self.seen = None, []

    def started(self, done, cells):
        self.done = done

    def cell_done(self, cell, reason):
        self.seen.append(str(cell))


def cells_of(path, methods, seeds, out):
    return make_cells(load_federation(path), method_names(methods), seeds, out)


def compare(path, methods, seeds, out, workers=1, observer=None):
    cells = cells_of(path, methods, seeds, out)
    failed = run_cells(cells, out, workers, observer or Watching())
    return cells, failed


def arguments(path, out, *more, methods=COMPARED):
    return ["compare", str(path), "--methods", methods, "--seeds", "2", "--out", str(out), *more]


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


def test_names_are_split_at_commas_outside_changes():
    assert method_names("local, fedavg") == ["local", "fedavg"]
    assert method_names("a@rounds=3,preset=paper,b,c@rounds=1") == ["a@rounds=3,preset=paper", "b", "c@rounds=1"]
    assert method_names("a,rounds=3") == ["a", "rounds=3"]
    assert method_names(" ,") == []


def test_a_cell_is_the_file_with_another_method_and_seed(federation_file, tmp_path):
    path = federation_file(settings={"forward": 0.5}, reference="local", runtime={"workers": 2, "threads": 1})
    names = "fedprox@settings.mu=0.5,fedhelp,fedhelp@preset=recommended,rounds=4,settings.ranking=0,fedavg"
    cells = cells_of(path, names, 2, tmp_path / "out")
    assert [(cell.method, cell.seed) for cell in cells[:5]] == [
        ("fedprox@settings.mu=0.5", 3),
        ("fedhelp", 3),
        ("fedhelp@preset=recommended,rounds=4,settings.ranking=0", 3),
        ("fedavg", 3),
        ("fedprox@settings.mu=0.5", 4),
    ]
    assert cells[4].folder == tmp_path / "out/cells/fedprox@settings.mu=0.5/seed-4"
    prox, own, changed, fedavg = (cell.federation for cell in cells[:4])
    assert prox.method.settings.mu == prox.file.settings["mu"] == 0.5 and "forward" not in prox.file.settings
    assert own.method.settings.forward == 0.5 and own.method.settings.ranking == 0.2
    recommended = METHODS["fedhelp"].presets["recommended"]
    assert changed.method.settings.decay == recommended["decay"] < 1 and changed.method.settings.ranking == 0
    assert changed.method.settings.forward == 0.5 and changed.file.rounds == 4
    assert fedavg.method.settings == FedAvgSettings() and fedavg.method.name == "fedavg"
    for federation in (prox, own, changed, fedavg):
        assert federation.file.runtime.workers == 1
        assert federation.file.reference == ("local" if federation is changed else None)  # where sites choose
        assert federation.file.sites == own.file.sites and federation.datalists is own.datalists


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("", "--methods: is empty"),
        ("local,fedprxo", "--methods: fedprxo: method: 'fedprxo' is unknown; choose one of .*fedprox"),
        ("local,fedavg,local", "local stands there twice"),
        ("fedavg@seed=3", "'seed=3' is not a change; write key=value with one of the keys rounds, .*settings.NAME"),
        ("fedavg@rounds", "'rounds' is not a change"),
        ("fedavg@settings=3", "'settings=3' is not a change"),
        ("fedavg@rounds.x=3", "is not a change"),
        ("fedavg@rounds=0", "rounds: 0 is too small"),
        ("fedavg@rounds=few", "rounds: 'few' is not a whole number"),
        ("fedavg@aggregation.weight=uniform", "aggregation.weight: .*unknown key"),
        ("fedhelp@settings.rankin=0", "settings.rankin: 0: unknown key; did you mean 'ranking'"),
        ("fedhelp@settings.ranking=@x", "'@x' is not a value; write a number"),
        ("fedhelp@preset=better", "preset: 'better' is unknown"),
        ("../fedavg", "is not a name for a folder"),
    ],
)
def test_a_wrong_method_is_refused_before_anything_is_written(federation_file, tmp_path, methods, said):
    with pytest.raises(InputError, match=said):
        compare(federation_file(), methods, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_process_in_the_same_folder_is_refused_and_changes_nothing(federation_file, tmp_path):
    path, out = federation_file(), tmp_path / "out"
    with alone_in(out), pytest.raises(InputError, match="out: another process is working in it"):
        compare(path, "local", 1, out)
    with alone_in(out), pytest.raises(InputError, match="out: another process is working in it"):
        run_federation(load_federation(path), out)
    assert not list(out.iterdir())


def test_the_command_line_refuses_an_unknown_method_with_status_2(federation_file, tmp_path, monkeypatch, capsys):
    command = arguments(federation_file(), tmp_path / "out", methods="local,fedprxo")
    monkeypatch.setattr(sys, "argv", ["fedhelp", *command])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "fedhelp: --methods: fedprxo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_killed_half_way_and_started_again_no_cell_is_repeated(federation_file, tmp_path, monkeypatch, capsys):
    path = federation_file()
    compare(path, COMPARED, 2, tmp_path / "undisturbed")
    expected = (tmp_path / "undisturbed/comparison.csv").read_bytes()

    out = tmp_path / "out"
    command = [sys.executable, "-c", COMMAND, *arguments(path, out, "--workers", "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 300
    while len(list(out.glob("cells/*/*/testing.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(is_running(pid) for pid in children):  # they end with their parent
        assert time.monotonic() < deadline
        time.sleep(0.01)
    finished = [file.parent for file in out.glob("cells/*/*/testing.json")]
    assert 3 <= len(finished) < 6
    before = {folder: snapshot(folder) for folder in finished}

    monkeypatch.setattr(sys, "argv", ["fedhelp", *arguments(path, out, "--workers", "1")])
    main()
    told = capsys.readouterr().out
    assert f"{len(finished)} of 6 cells are finished already." in told
    assert {folder: snapshot(folder) for folder in finished} == before
    assert (out / "comparison.csv").read_bytes() == expected
    assert "Small sites: auc of what they deploy, 2 sites, 2 seeds" in told
    assert "Disparity (auc)" in told
    assert "### Disparity (auc)" in (out / "comparison.md").read_text()
    assert len((out / "disparity.csv").read_text().splitlines()) == 1 + 3 * 4
    assert not list(out.rglob(".*"))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.integration
def test_cells_are_fair_and_the_table_has_every_row(federation_file, tmp_path, monkeypatch):
    path = federation_file()
    out = tmp_path / "out"
    cells, failed = compare(path, "fedavg,fedprox@settings.mu=0,fedhelp", 2, out)
    assert failed == {}
    weights = {}
    for cell in cells:
        weights[cell.method, cell.seed] = load_file(cell.workspace.model(0))
    for seed in (3, 4):  # all methods start from the same weights
        for name in ("fedprox@settings.mu=0", "fedhelp"):
            assert_same(weights["fedavg", seed], weights[name, seed])
    with pytest.raises(AssertionError):
        assert_same(weights["fedavg", 3], weights["fedavg", 4])
    updates = [load_file(cell.folder / "sites/clinic-a/round-0001/update.safetensors") for cell in cells[:3]]
    assert_same(updates[0], updates[1])  # and see the same batches: without a term of its own a method is FedAvg
    assert_same(updates[0], updates[2])  # FedHelp's small site without a public set
    results = {cell.method: {(row.site, row.metric): row.value for row in deployed(cell)} for cell in cells[:3]}
    assert results["fedavg"] == results["fedprox@settings.mu=0"]

    plain = run_federation(load_federation(path), tmp_path / "run")
    assert cells[2].workspace.metrics_file.read_bytes() == plain.metrics_file.read_bytes()

    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["method", "seed", "site", "role", "model", "metric", "value"]
    found = {(method, seed, role, model) for method, seed, _, role, model, _, _ in rows[1:]}
    expected = set()
    for seed in ("3", "4"):
        for method in ("fedavg", "fedprox@settings.mu=0", "fedhelp"):
            expected |= {(method, seed, "small", model) for model in ("surrogate", "global", "deployed")}
            expected |= {(method, seed, "large", model) for model in ("proxy", "global", "deployed")}
        expected.add(("fedhelp", seed, "large", "large"))
    assert found == expected
    assert rows[1:] == sorted(rows[1:]) and len({tuple(row[:6]) for row in rows[1:]}) == len(rows) - 1
    assert {row[5] for row in rows[1:]} == {"accuracy", "auc", "balanced_accuracy"}
    assert len(rows) - 1 == 3 * 2 * (2 * 3 + 2 * 3) * 3 + 2 * 2 * 3

    # What the studies give is what the site reported: a sample that draws every patient once has the cell's value.
    monkeypatch.setattr(
        "fedhelp_med.report.comparison.patient_counts", lambda patients, draws, _: np.ones((draws, len(patients)))
    )
    for metric in ("auc", "accuracy", "balanced_accuracy"):
        everyone = read_results(cells, metric, draws=1)
        assert everyone.patients
        np.testing.assert_allclose(everyone.draws[:, 0], everyone.values, atol=1e-6)


def assert_same(one, other):
    assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def deployed(cell):
    return [row for row in cell.workspace.final() if row.model == "deployed"]


@pytest.mark.integration
def test_a_failed_cell_is_named_the_others_go_on_and_the_command_tries_again(
    federation_file, tmp_path, monkeypatch, capsys
):
    path, out = federation_file(rounds=1), tmp_path / "out"
    methods = "fedavg@aggregation.minimum_sites=4,fedhelp"
    command = ["fedhelp", "compare", str(path), "--methods", methods, "--seeds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--workers", "1"])
    image = tmp_path / "sites/clinic-b/images/training-3.png"
    pixels = image.read_bytes()
    load_federation(path)
    image.write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "fedavg@aggregation.minimum_sites=4, seed 3: failed: round 1: 3 of 4 sites finished" in told.out
    assert "1 of 2 cells failed: fedavg@aggregation.minimum_sites=4, seed 3" in told.err
    assert "Without a result at every site" in told.out
    events = (out / "cells/fedavg@aggregation.minimum_sites=4/seed-3/events.jsonl").read_text()
    assert '"cell_failed"' in events and "training-3.png" in events
    assert "fedhelp, seed 3: without clinic-b, which failed; see" in told.out
    done = snapshot(out / "cells/fedhelp")
    assert done

    image.write_bytes(pixels)
    main()
    assert "1 of 2 cells are finished already." in capsys.readouterr().out
    assert snapshot(out / "cells/fedhelp") == done
    assert {row["method"] for row in csv.DictReader((out / "comparison.csv").open())} == set(method_names(methods))


@pytest.mark.integration
def test_a_site_may_deploy_its_local_only_network_and_it_is_trained_once(federation_file, tmp_path):
    path = federation_file(preset="recommended", reference="local", rounds=1)
    alone, _ = compare(path, "fedhelp", 1, tmp_path / "alone")
    assert not (alone[0].folder / "reference").is_symlink()
    plain = run_federation(load_federation(path), tmp_path / "run")
    expected = plain.metrics_file.read_bytes()
    assert alone[0].workspace.metrics_file.read_bytes() == expected
    for workers in (1, 2):
        watching = Watching()
        out = tmp_path / f"{workers} workers"
        both, failed = compare(path, "fedhelp,local,fedhelp@rounds=2", 1, out, workers, watching)
        assert failed == {} and watching.seen[0] == "local, seed 3"  # the others need it
        own, local, longer = both
        assert (own.folder / "reference").resolve() == local.folder
        assert not (longer.folder / "reference").is_symlink()  # two rounds of its own
        assert own.workspace.metrics_file.read_bytes() == expected
    assert json.loads((own.folder / "sites/clinic-a/deployed/meta.json").read_text())["choice"]["evidence"]["local"]
    assert {row.model for row in own.workspace.final()} == {"surrogate", "proxy", "large", "global", "deployed"}


@pytest.mark.integration
def test_a_dead_process_fails_its_cell_only(federation_file, tmp_path):
    path, out = federation_file(rounds=3), tmp_path / "out"

    def kill_one():
        deadline = time.monotonic() + 120
        while not list(out.glob("cells/*/*/global/round-0001/meta.json")) and time.monotonic() < deadline:
            time.sleep(0.001)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    cells, failed = compare(path, "local,fedavg,fedhelp", 1, out, workers=2)
    killer.join()
    assert [reason.partition(";")[0] for reason in failed.values()] == ["its process ended"]
    assert sum(cell.workspace.complete for cell in cells) == 2
    watching = Watching()
    assert compare(path, "local,fedavg,fedhelp", 1, out, observer=watching)[1] == {}
    assert watching.done == 2 and watching.seen == [str(cell) for cell in failed]


@pytest.mark.integration
def test_another_folder_or_comparison_is_not_touched(federation_file, tmp_path):
    path, out = federation_file(rounds=1), tmp_path / "out"
    compare(path, "local", 1, out)
    before = snapshot(out)
    with pytest.raises(InputError, match=r"seed-3: holds a run of another federation \(different: rounds\)"):
        compare(federation_file(rounds=2), "local,fedavg", 2, out)
    assert snapshot(out) == before
    more = Watching()
    compare(federation_file(rounds=1, runtime={"workers": 4}), "fedavg,local", 1, out, observer=more)
    assert more.done == 1 and more.seen == ["fedavg, seed 3"]

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match="not empty and not a comparison; choose another --out"):
        compare(path, "local", 1, other)
    with pytest.raises(InputError, match="is a file; choose another --out"):
        compare(path, "local", 1, other / "thesis.docx")
    assert [file.name for file in other.iterdir()] == ["thesis.docx"]

    (out / "cells/local/seed-3/federation.yaml").write_text("name: [")
    with pytest.raises(InputError, match=r"federation.yaml: is damaged; remove .*seed-3"):
        compare(path, "local", 1, out)


@pytest.mark.integration
def test_a_site_at_which_testing_failed_is_tested_again(federation_file, tmp_path):
    path, out = federation_file(rounds=1), tmp_path / "out"
    image = tmp_path / "sites/clinic-b/images/testing-1.png"
    pixels = image.read_bytes()
    image.write_bytes(b"damaged")
    cells, failed = compare(path, "fedavg,local", 1, out)
    assert sorted(map(str, failed)) == ["fedavg, seed 3", "local, seed 3"]
    assert all(reason.startswith("testing failed at clinic-b (") for reason in failed.values())
    assert {row.site for row in cells[0].workspace.final()} == {"clinic-a", "hospital-a", "hospital-b"}
    image.write_bytes(pixels)
    cells, failed = compare(path, "fedavg,local", 1, out)
    assert failed == {} and "clinic-b" in {row.site for row in cells[0].workspace.final()}


@pytest.mark.integration
def test_a_correction_before_anything_was_trained_is_taken_and_a_changed_bundle_later_refused(
    federation_file, tmp_path
):
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLES / "fedhelp_classification", bundle)
    path, out = federation_file(rounds=1, bundle="bundle"), tmp_path / "out"
    cells = make_cells(load_federation(path), ["fedavg"], 1, out)
    save_federation(cells[0].federation, cells[0].workspace.federation_file)  # began, and failed before round 1
    path = federation_file(rounds=2, bundle="bundle")
    assert compare(path, "fedavg", 1, out)[1] == {}
    config = bundle / "configs/train.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(InputError, match=r"changed since: the bundle's configs"):
        compare(path, "fedavg", 1, out)


@pytest.mark.integration
def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(federation_file, tmp_path):
    path = federation_file()
    content = yaml.safe_load(path.read_text())
    content["overrides"]["network_def#out_channels"] = 5
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="gives 5 channels for 2 classes"):
        compare(path, "local,fedavg", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
