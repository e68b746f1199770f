"""What participants of an NVFlare job are told and tell, and the runner over that wire without NVFlare."""

import json
import math
import threading

import pytest
import torch
import yaml
from conftest import BUNDLE
from nvflare_participants import Wire
from safetensors.torch import load_file

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.deployment import Choice
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.nvflare.job import export_job
from fedhelp_med.federation.nvflare.plan import plan_of, read_plan, server_federation, write_plan
from fedhelp_med.federation.nvflare.remote import RemoteSites, ServerWorkspace, SiteLostError
from fedhelp_med.federation.nvflare.script import Participant
from fedhelp_med.federation.nvflare.selection import BestModel, cross_evaluate
from fedhelp_med.federation.nvflare.wire import (
    REPORT,
    pack_arguments,
    pack_report,
    to_arrays,
    to_tensors,
    unpack_arguments,
    unpack_report,
)
from fedhelp_med.federation.runner import run_federation, run_methods
from fedhelp_med.federation.site_messages import SiteReport
from fedhelp_med.federation.task import task_constants
from fedhelp_med.federation.workspace import Row


def test_a_report_survives_the_wire():
    report = SiteReport(
        rows=[Row(2, "a", "small", "global", "validation", "auc", 0.1 + 0.2)],
        samples=7,
        seconds=1.5,
        loss_terms={"forward": 0.25},
        counts=[(3, 4), (0, 2)],
        choice=Choice(("large", "global"), True, {"large": {"score": 0.5}}),
    )
    assert unpack_report(json.loads(json.dumps(pack_report(report)))) == report


def test_a_site_is_sent_its_own_part_of_what_is_told_by_site(tmp_path):
    signals = {"a": {"validation": {"large": 0.9}}, "b": {"validation": {"large": 0.1}}}
    packed, weights = pack_arguments((3, tmp_path / "model.safetensors", signals), "a")
    assert weights == tmp_path / "model.safetensors"
    assert "0.1" not in json.dumps(packed) and str(tmp_path) not in json.dumps(packed)
    stored = tmp_path / "incoming.safetensors"
    assert unpack_arguments(json.loads(json.dumps(packed)), "a", stored) == [3, stored, {"a": signals["a"]}]
    assert unpack_arguments(pack_arguments((3, None), "a")[0], "a", stored) == [3, None]


def test_tensors_are_exact_and_own_their_memory():
    tensors = {"w": torch.randn(3, 4), "count": torch.tensor(5), "half": torch.randn(2).half()}
    back = to_tensors(to_arrays(tensors))
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor)
    back["w"].zero_()
    assert tensors["w"].abs().sum() > 0


def test_a_plan_tells_a_site_of_no_other_and_the_server_of_no_path(federation_file, tmp_path):
    export_job(load_federation(federation_file()), tmp_path / "job")
    own = (tmp_path / "job/app_clinic-a/custom/fedhelp.json").read_text()
    assert "sites/clinic-a/datalist.json" in own
    assert "clinic-b" not in own and "hospital" not in own
    server = (tmp_path / "job/app_server/custom/fedhelp.json").read_text()
    assert "hospital-b" in server and "datalist.json" not in server
    assert "class 0" in server  # what the task is
    meta = json.loads((tmp_path / "job/meta.json").read_text())
    assert meta["deploy_map"]["app_clinic-b"] == ["clinic-b"] and meta["min_clients"] == 1
    assert not [path for path in (tmp_path / "job").rglob("*") if path.suffix in (".pt", ".pkl")]
    with pytest.raises(InputError, match="not empty; choose another --out"):
        export_job(load_federation(federation_file()), tmp_path / "job")


def test_the_same_federation_has_the_same_run_name_and_another_has_another(federation_file):
    def name(**changes):
        return plan_of(load_federation(federation_file(**changes)), {}).run

    assert name() == name(runtime={"workers": 3})
    assert name() != name(seed=4)


def test_a_bundle_of_ones_own_travels_with_the_job(federation_file, tmp_path, monkeypatch):
    import shutil

    own = tmp_path / "mine"
    shutil.copytree(BUNDLE, own, ignore=shutil.ignore_patterns("models"))
    export_job(load_federation(federation_file(bundle=str(own))), tmp_path / "job")
    shutil.rmtree(own)
    plan = read_plan(tmp_path / "job/app_server/custom/fedhelp.json")
    assert server_federation(plan).bundle == tmp_path / "job/app_server/custom/bundle"


def test_a_participant_says_where_its_own_things_are(federation_file, tmp_path, monkeypatch):
    federation = load_federation(federation_file())
    plan = plan_of(federation, task_constants(federation)).for_site("clinic-a")
    write_plan(plan, tmp_path / "fedhelp.json")
    places = tmp_path / "here.yaml"
    places.write_text(yaml.safe_dump({"data": "mine/datalist.json"}))
    monkeypatch.setenv("FEDHELP_SITE", str(places))
    assert read_plan(tmp_path / "fedhelp.json").file.sites[0].data == str(tmp_path / "mine/datalist.json")
    places.write_text(yaml.safe_dump({"datalist": "mine/datalist.json"}))
    with pytest.raises(InputError, match="has to be a mapping of data, public, ledger, bundle, model"):
        read_plan(tmp_path / "fedhelp.json")


@pytest.fixture
def over_wire(federation_file, tmp_path, monkeypatch):
    """Run a federation over the wire; every participant has a folder of its own."""

    def run(path, name="wire", wire=None, before=None):
        federation = load_federation(path)
        constants = task_constants(federation)
        plan = plan_of(federation, constants)
        wire = wire or Wire(plan, tmp_path / name)
        for site in plan.file.sites:
            wire.start(site.name, monkeypatch)
        workspace = ServerWorkspace(tmp_path / name / "server")

        def sites(of, where, _):
            part = "main" if where.root == workspace.root else "reference"
            return RemoteSites(wire, [site.name for site in of.sites], where, part)

        observer = BestModel(workspace, ["clinic-a", "clinic-b"])
        runner = run_methods(server_federation(plan.for_server()), workspace, constants, observer, sites)
        hosts = sites(runner.federation, workspace, constants)
        return wire, workspace, lambda: cross_evaluate(runner, hosts, workspace)

    return run


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "recommended", "reference": "local", "rounds": 3},
        {"aggregation": {"upload": "differences"}},
    ],
    ids=["reference", "differences"],
)
def test_over_the_wire_the_numbers_are_the_same(changes, federation_file, over_wire, tmp_path):
    path = federation_file(**changes)
    here = run_federation(load_federation(path), tmp_path / "here")
    _, there, cross_evaluate = over_wire(path)
    assert there.metrics_file.read_bytes() == here.metrics_file.read_bytes()
    last = changes.get("rounds", 2)
    one, other = load_file(here.model(last)), load_file(there.model(last))
    assert all(torch.equal(one[key], other[key]) for key in one)
    site = tmp_path / "wire/hospital-a/sites/hospital-a"
    assert sorted(folder.name for folder in site.glob("round-*"))[-1] == f"round-{last:04d}"
    large = load_file(site / f"round-{last:04d}/state.safetensors")
    expected = load_file(here.site("hospital-a") / f"round-{last:04d}/state.safetensors")
    assert all(torch.equal(large[key], expected[key]) for key in expected)
    assert not list((tmp_path / "wire/server").rglob("*large*"))  # a large network does not leave its site

    cross_evaluate()
    table = (there.root / "cross_site.csv").read_text().splitlines()
    assert len(table) == 1 + 4 * 4 * 3
    # The job is submitted again after its run was complete: there is no round to be done, the table is there.
    _, _, cross_evaluate_again = over_wire(path)
    cross_evaluate_again()
    assert (there.root / "cross_site.csv").read_text().splitlines() == table
    (there.root / "cross_site.csv").unlink()
    cross_evaluate_again()
    assert (there.root / "cross_site.csv").read_text().splitlines() == table
    own = {row.value for row in here.final() if (row.site, row.model, row.metric) == ("clinic-a", "surrogate", "auc")}
    line = next(line for line in table if line.startswith("clinic-a,clinic-a,testing,auc"))
    assert float(line.rsplit(",", 1)[1]) == pytest.approx(own.pop(), abs=1e-6)


@pytest.mark.integration
def test_a_site_whose_process_died_goes_on_from_its_own_state(federation_file, over_wire, tmp_path, monkeypatch):
    path = federation_file()
    here = run_federation(load_federation(path), tmp_path / "here")
    federation = load_federation(path)
    wire = Wire(plan_of(federation, task_constants(federation)), tmp_path / "wire")
    train = Participant.answer

    def dying(self, meta, arrays):
        request = json.loads(meta["fedhelp_request"])
        told = train(self, meta, arrays)
        if self.name == "hospital-a" and request["step"] == "train" and request["arguments"][0] == 2:
            wire.gone.add(self.name)  # after its state was stored, before the server hears of it
            raise SystemExit
        return told

    monkeypatch.setattr(Participant, "answer", dying)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(SiteLostError, match="hospital-a: its process is gone; submit the job again to go on"):
        over_wire(path, wire=wire)
    monkeypatch.setattr(Participant, "answer", train)
    wire.gone.clear()
    _, there, _ = over_wire(path, wire=wire)
    assert [event["site"] for event in there.events() if event["event"] == "site_lost"] == ["hospital-a"]
    assert there.metrics_file.read_bytes() == here.metrics_file.read_bytes()


@pytest.mark.integration
def test_a_site_that_fails_or_is_absent_is_named_and_the_others_go_on(federation_file, over_wire, tmp_path):
    path = federation_file(rounds=1)
    federation = load_federation(path)
    wire = Wire(plan_of(federation, task_constants(federation)), tmp_path / "wire", absent=["clinic-b"])
    (tmp_path / "sites/hospital-b/images/training-3.png").write_bytes(b"damaged")
    _, workspace, _ = over_wire(path, wire=wire)
    failed = {event["site"]: event["error"] for event in workspace.events() if event["event"] == "site_failed"}
    assert failed["clinic-b"] == "clinic-b: is not connected"
    assert failed["hospital-b"] == "hospital-b: RuntimeError; its own events.jsonl says more"
    own = (tmp_path / "wire/hospital-b/events.jsonl").read_text()
    assert "training-3.png" in own  # a file's name stays at the site
    assert {row.site for row in workspace.final()} == {"clinic-a", "hospital-a"}


def test_a_site_answers_to_its_steps_only(federation_file, tmp_path, monkeypatch):
    federation = load_federation(federation_file())
    monkeypatch.setenv("FEDHELP_RUN", str(tmp_path / "run"))
    participant = Participant(plan_of(federation, {}).for_site("clinic-a"), "clinic-a")
    request = {"part": "main", "step": "__init__", "committed": None, "arguments": []}
    told, update = participant.answer({"fedhelp_request": json.dumps(request)}, None)
    assert told == {"error": "clinic-a: FedHelpError; its own events.jsonl says more"} and update is None
    assert "was asked for '__init__'" in (tmp_path / "run/events.jsonl").read_text()


def test_the_best_round_is_chosen_by_the_small_sites(tmp_path):
    workspace = ServerWorkspace(tmp_path)
    best = BestModel(workspace, ["clinic"])
    for number, (small, large) in enumerate([(0.5, 0.9), (0.8, 0.1), (0.7, 1.0), (math.nan, 1.0)]):
        workspace.save_global(number, {"w": torch.tensor([float(number)])})
        rows = [
            Row(number, site, role, "global", "validation", "auc", value)
            for site, role, value in (("clinic", "small", small), ("hospital", "large", large))
        ]
        best.round_done(number, rows)
    assert json.loads((tmp_path / "best/meta.json").read_text())["round"] == 1
    assert load_file(tmp_path / "best/model.safetensors")["w"].item() == 1


def test_what_a_foreign_site_sends_is_not_trusted(tmp_path):
    class Broken:
        def __init__(self):
            self.meta, self.params = {REPORT: json.dumps({"rows": "all of them"})}, None

    class Tasks:
        def connected(self):
            return ["a"]

        def lost(self, site):
            return False

        def aborted(self):
            return False

        def hand_out(self, site, step, meta, arrays, on_result):
            on_result(Broken())

    ((name, outcome),) = RemoteSites(Tasks(), ["a"], ServerWorkspace(tmp_path), "main").each("train", 1, None, {})
    assert name == "a" and isinstance(outcome, FedHelpError) and "cannot be read" in str(outcome)
