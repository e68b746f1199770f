"""The one-time acquisition as a job of its own, over the wire and in NVFlare's simulator."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from archives import own_network
from conftest import write_site
from nvflare_participants import Wire

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.loading import load_federation, read_federation_file
from fedhelp_med.federation.nvflare.job import export_acquisition
from fedhelp_med.federation.nvflare.plan import plan_of, read_plan
from fedhelp_med.federation.nvflare.remote import ServerWorkspace, acquire_once
from fedhelp_med.federation.nvflare.script import Participant
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation.ledger import Ledger


def foundation_model(folder: Path) -> Path:
    """A linear model in TorchScript with its description."""
    folder.mkdir(parents=True)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    torch.jit.script(network).save(str(folder / "model.ts"))
    about = {"name": "linear", "version": "1", "torchscript": "model.ts", "classes": ["class 0", "class 1"]}
    file = folder / "foundation.json"
    file.write_text(json.dumps(about | {"input": {"channels": 1, "size": [16, 16]}}))
    return file


def acquiring(federation_file, folder: Path) -> tuple[Path, Path]:
    """Write a federation with a public set and without a ledger, and a foundation model; return their files."""
    public = write_site(folder / "public", training=5, seed=9, labelled=False)
    public.write_text(json.dumps(json.loads(public.read_text()) | {"public": True}))
    path = federation_file(public={"data": "public/datalist.json"}, foundation={"ledger": "knowledge.sqlite"})
    return path, foundation_model(folder / "model")


def test_the_acquisition_is_a_job_of_one_round(federation_file, tmp_path, monkeypatch):
    path, model = acquiring(federation_file, tmp_path)
    file = read_federation_file(path)
    export_acquisition(file, path, model, "hospital-a", tmp_path / "job")
    assert sorted(folder.name for folder in (tmp_path / "job").glob("app_*")) == ["app_hospital-a", "app_server"]
    assert "foundation.json" in (tmp_path / "job/app_hospital-a/custom/fedhelp.json").read_text()

    plan = read_plan(tmp_path / "job/app_hospital-a/custom/fedhelp.json")
    wire = Wire(plan, tmp_path / "wire")
    wire.start("hospital-a", monkeypatch)
    workspace = ServerWorkspace(tmp_path / "wire/server")
    for _ in range(2):
        acquire_once(wire, plan, workspace)
    first, second = workspace.events()
    assert (first["site"], first["asked"], first["already_known"]) == ("hospital-a", 5, 0)
    assert (second["asked"], second["already_known"]) == (0, 5)  # once, and never again
    assert wire.log == [("hospital-a", "acquire")] * 2
    assert (tmp_path / "knowledge.sqlite").is_file()

    model.unlink()
    with pytest.raises(FedHelpError, match=r"acquisition failed: hospital-a: InputError; its own events\.jsonl"):
        acquire_once(wire, plan, workspace)
    with pytest.raises(InputError, match=r"--at: .* has no site 'clinic-x'"):
        export_acquisition(file, path, model, "clinic-x", tmp_path / "other")


def test_a_site_does_not_acquire_in_a_job_of_training(federation_file, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHELP_RUN", str(tmp_path / "run"))
    plan = plan_of(load_federation(federation_file()), {}).for_site("clinic-a")
    request = {"part": "main", "step": "acquire", "committed": None, "arguments": []}
    told, _ = Participant(plan, "clinic-a").answer({"fedhelp_request": json.dumps(request)}, None)
    assert told["error"].startswith("clinic-a: FedHelpError")


@pytest.mark.service
def test_in_nvflares_simulator_the_ledger_is_filled_once(federation_file, tmp_path):
    if not find_spec("nvflare") or not find_spec("nvflare.apis"):
        reason = "nvflare is not installed: pip install 'fedhelp-med[nvflare]'"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    path, model = acquiring(federation_file, tmp_path)
    job, home = tmp_path / "job", tmp_path / "home"
    environment = {**os.environ, "FEDHELP_HOME": str(home), "HOME": str(tmp_path)}

    def submit(number: int) -> None:
        command = ["simulator", str(job), "-w", str(tmp_path / f"simulator-{number}"), "-c", "hospital-a", "-t", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "nvflare.cli", *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:]

    fedhelp = [sys.executable, "-c", "from fedhelp_med.cli.main import main; main()", "export", "nvflare"]
    options = ["--acquire", str(model), "--at", "hospital-a", "--out", str(job)]
    subprocess.run([*fedhelp, str(path), *options], check=True, capture_output=True)
    with own_network():
        submit(1)
        with Ledger(tmp_path / "knowledge.sqlite", readonly=True) as ledger:
            first = ledger.summary()
        submit(2)
        with Ledger(tmp_path / "knowledge.sqlite", readonly=True) as ledger:
            assert ledger.summary() == first
    assert first.images == 5 and first.calls == 1 and first.failed == 0
    (folder,) = home.glob("acquire-*")  # the server and its one site share it in one machine
    once, again = [event for event in Workspace(folder).events() if event["event"] == "acquired"]
    assert (once["site"], once["asked"], once["calls"]) == ("hospital-a", 5, 1)
    assert (again["asked"], again["already_known"], again["calls"]) == (0, 5, 0)
