"""NVFlare for real: its simulator, and its POC with a process and a certificate for each participant."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from archives import own_network
from safetensors.torch import load_file

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.workspace import Workspace

pytestmark = pytest.mark.service


@pytest.fixture(autouse=True)
def _nvflare() -> None:
    if not find_spec("nvflare") or not find_spec("nvflare.apis"):
        reason = "nvflare is not installed: pip install 'fedhelp-med[nvflare]'"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def launch(path: Path, out: Path, runtime: str, **options) -> Workspace:
    from fedhelp_med.federation.nvflare.launch import run_in_nvflare

    return run_in_nvflare(load_federation(path), out, runtime, **options)


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


def test_the_simulator_gives_the_same_numbers(federation_file, tmp_path):
    path = federation_file(rounds=3, preset="recommended", reference="local")
    here = run_federation(load_federation(path), tmp_path / "here")
    with own_network():
        there = launch(path, tmp_path / "there", "nvflare-sim")
    assert there.metrics_file.read_bytes() == here.metrics_file.read_bytes()
    assert largest_difference(here.model(3), there.model(3)) == 0
    assert json.loads((there.root / "best/meta.json").read_text())["sites"] == ["clinic-a", "clinic-b"]
    assert len((there.root / "cross_site.csv").read_text().splitlines()) == 1 + 4 * 4 * 3
    assert list((there.root / "nvflare").rglob("*.tfevents.*"))  # metrics reached NVFlare's tracking
    assert not [file for file in there.root.rglob("*") if file.suffix in (".pt", ".pth", ".pkl", ".npy")]


def test_a_failed_run_is_reported_as_failed(federation_file, tmp_path):
    path = federation_file(rounds=1, aggregation={"minimum_sites": 4})
    (tmp_path / "sites/clinic-a/images/training-1.png").write_bytes(b"damaged")
    with pytest.raises(FedHelpError, match=r"the NVFlare run failed: round 1: 3 of 4 sites finished .* logs are in"):
        launch(path, tmp_path / "run", "nvflare-sim")
    assert not Workspace(tmp_path / "run").complete


def processes(*words: str) -> dict[int, str]:
    """Return the command lines of the processes whose command line holds all words, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words):
                found[int(folder.name)] = line
    return found


class Saboteur:
    """Harms a POC run of four rounds, in threads beside it.

    In round 2 all of hospital-a is killed, as when its machine goes down, and started again with its own kit; in
    round 4 hospital-b's job process is killed. A stranger, whose certificate another authority signed, tries to join
    as clinic-a.
    """

    def __init__(self, out: Path, tmp_path: Path):
        self.workspace, self.tmp_path = Workspace(out), tmp_path
        self.machine_down: dict[int, str] = {}
        self.job_down: dict[int, str] = {}
        self.round_then = 0
        self.stranger_log = ""
        self.threads: list[threading.Thread] = []

    def __call__(self, poc: Path) -> None:
        for work in (self.harm, self.intrude):
            thread = threading.Thread(target=work, args=(poc,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def harm(self, poc: Path) -> None:
        (kit,) = poc.glob("*/prod_00/hospital-a")
        self.wait_for(1)
        self.machine_down = processes(f"{kit}")
        environment = self.kill(self.machine_down)
        self.round_then = self.workspace.committed()
        with (self.tmp_path / "restarted.log").open("wb") as log:
            subprocess.run(
                ["bash", str(kit / "startup/start.sh")],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(3)
        self.job_down = processes(str(poc), "/hospital-b", "client.worker_process")
        self.kill(self.job_down)

    def wait_for(self, number: int) -> None:
        meta = self.workspace.root / f"global/round-{number:04d}/meta.json"
        while not meta.is_file():
            time.sleep(0.005)

    @staticmethod
    def kill(victims: dict[int, str]) -> dict[str, str]:
        """Kill processes, a shell first, since it restarts what it started; return the environment of the first."""
        order = sorted(victims, key=lambda pid: "sub_start.sh" not in victims[pid])
        content = Path(f"/proc/{order[0]}/environ").read_text()
        for pid in order:
            os.kill(pid, signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in order):
            time.sleep(0.1)
        return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)

    def intrude(self, poc: Path) -> None:
        """Provision another project with the same names, and start its client against this server."""
        nvflare = [sys.executable, "-m", "nvflare.cli"]
        home = self.tmp_path / "stranger"
        home.mkdir()
        environment = {
            **os.environ,
            "HOME": str(home),
            "NVFLARE_POC_WORKSPACE": str(home / "poc"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        shutil.copy(poc / "project.yml", home / "project.yml")
        subprocess.run(
            [*nvflare, "poc", "prepare", "-i", str(home / "project.yml")], env=environment, capture_output=True
        )
        (kit,) = home.glob("poc/*/prod_00/clinic-a")
        log = home / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", str(kit / "startup/sub_start.sh"), "--once"],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            self.stranger_log = log.read_text(errors="replace")
            if "CERTIFICATE_VERIFY_FAILED" in self.stranger_log:
                break
            time.sleep(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self.stranger_log = log.read_text(errors="replace")


@pytest.fixture(scope="module")
def poc(tmp_path_factory):
    """One POC run for the tests below: it takes minutes."""
    from conftest import write_federation

    folder = tmp_path_factory.mktemp("poc")
    path = write_federation(folder, rounds=4)
    here = run_federation(load_federation(path), folder / "here")
    saboteur = Saboteur(folder / "there", folder)
    with own_network():  # NVFlare's server listens on all interfaces
        there = launch(path, folder / "there", "nvflare-poc", started=saboteur)
    for thread in saboteur.threads:
        thread.join(timeout=100)
    assert not processes("/fedhelp-nvflare-", "/poc/")  # the client that was started again is stopped as well
    return here, there, saboteur


def registrations(run: Workspace, site: str) -> list[str]:
    """Return what the server logged of a site that registered while it was registered."""
    return [
        line
        for file in (run.root / "nvflare").rglob("server/log.txt")
        for line in file.read_text(errors="replace").splitlines()
        if "already registered" in line and site in line
    ]


def test_a_killed_client_comes_back_and_the_run_ends_with_the_same_numbers(poc):
    here, there, saboteur = poc
    for part in ("sub_start.sh", "client.client_train", "client.worker_process"):
        assert any(part in line for line in saboteur.machine_down.values())
    assert saboteur.round_then == 1
    assert len(registrations(there, "hospital-a")) == 1  # started again with its own kit
    lost = [event["site"] for event in there.events() if event["event"] == "site_lost"]
    again = [event["sites"] for event in there.events() if event["event"] == "job_submitted_again"]
    assert "hospital-a" in lost and "hospital-a" in again[0]
    assert saboteur.job_down and "hospital-b" in again[1] and len(again) == 2
    assert there.complete
    assert [event["round"] for event in there.events() if event["event"] == "round"] == [1, 2, 3, 4]
    assert largest_difference(here.model(4), there.model(4)) == 0
    assert there.metrics_file.read_bytes() == here.metrics_file.read_bytes()


@pytest.mark.parametrize("site", ["hospital-a", "hospital-b"])
def test_a_killed_sites_large_network_went_on_from_its_own_state(poc, site):
    here, there, _ = poc
    one, other = (load_file(run.site(site) / "round-0004/state.safetensors") for run in (here, there))
    large = [key for key in one if "large" in key]
    assert large and all(torch.equal(one[key], other[key]) for key in large)


def test_a_client_with_a_certificate_of_another_authority_is_refused(poc):
    _, there, saboteur = poc
    assert "CERTIFICATE_VERIFY_FAILED" in saboteur.stranger_log
    assert "Successfully registered client" not in saboteur.stranger_log
    assert not registrations(there, "clinic-a")
