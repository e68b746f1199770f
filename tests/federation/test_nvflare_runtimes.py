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


def seconds_of(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def test_the_simulator_gives_the_same_numbers_and_what_it_costs(federation_file, tmp_path):
    path = federation_file(rounds=3, preset="recommended", reference="local")
    here, there = tmp_path / "here", tmp_path / "there"
    fedhelp = [sys.executable, "-c", "from fedhelp_med.cli.main import main; main()", "run", str(path)]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own = seconds_of(lambda: subprocess.run([*fedhelp, "--out", str(here), "--workers", "2"], **quiet))
    with own_network():
        command = [*fedhelp, "--out", str(there), "--runtime", "nvflare-sim"]
        simulator = seconds_of(lambda: subprocess.run(command, **quiet))
    assert (there / "metrics.csv").read_bytes() == (here / "metrics.csv").read_bytes()
    model = "global/round-0003/model.safetensors"
    assert largest_difference(here / model, there / model) == 0
    assert json.loads((there / "best/meta.json").read_text())["sites"] == ["clinic-a", "clinic-b"]
    assert len((there / "cross_site.csv").read_text().splitlines()) == 1 + 4 * 4 * 3
    assert list((there / "nvflare").rglob("*.tfevents.*"))  # metrics reached NVFlare's tracking
    assert not [file for file in there.rglob("*") if file.suffix in (".pt", ".pth", ".pkl", ".npy")]
    sent = (there / "updates/round-0003/clinic-a.safetensors").stat().st_size
    print(
        f"\n  wall time, 4 sites x 3 rounds and the reference: our runner {own:.1f} s, NVFlare's simulator "
        f"{simulator:.1f} s ({simulator / own:.1f} times; target 3); each site sends {sent} bytes a round"
    )


def test_a_failed_run_is_reported_as_failed(federation_file, tmp_path):
    path = federation_file(rounds=1, aggregation={"minimum_sites": 4})
    (tmp_path / "sites/clinic-a/images/training-1.png").write_bytes(b"damaged")
    with pytest.raises(FedHelpError, match=r"the NVFlare run failed: round 1: 3 of 4 sites finished .* logs are in"):
        launch(path, tmp_path / "run", "nvflare-sim")
    assert not Workspace(tmp_path / "run").complete


def processes(*words: str) -> list[int]:
    """Return the processes whose command line holds all words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words):
                found.append(int(folder.name))
    return found


class Saboteur:
    """Kills a site's job process in round 2, and lets a stranger with another authority's certificate try to join."""

    def __init__(self, out: Path, site: str, tmp_path: Path):
        self.out, self.site, self.tmp_path = out, site, tmp_path
        self.killed: list[int] = []
        self.stranger_log = ""
        self.threads: list[threading.Thread] = []

    def __call__(self, poc: Path) -> None:
        for work in (self.kill, self.intrude):
            thread = threading.Thread(target=work, args=(poc,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def kill(self, poc: Path) -> None:
        state = self.out / "sites" / self.site / "round-0002"
        while not (state.is_dir() or (self.out / "global/round-0001/meta.json").is_file()):
            time.sleep(0.005)
        for pid in processes(str(poc), f"/{self.site}", "client.worker_process"):
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)

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
        (kit,) = home.glob(f"poc/*/prod_00/{self.site}")
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
    saboteur = Saboteur(folder / "there", "hospital-a", folder)
    with own_network():  # NVFlare's server listens on all interfaces
        there = launch(path, folder / "there", "nvflare-poc", started=saboteur)
    for thread in saboteur.threads:
        thread.join(timeout=100)
    return here, there, saboteur


def test_a_killed_site_comes_back_and_the_run_ends_with_the_same_numbers(poc):
    here, there, saboteur = poc
    assert saboteur.killed
    again = [event["sites"] for event in there.events() if event["event"] == "job_submitted_again"]
    assert len(again) == 1 and "hospital-a" in again[0]
    assert there.complete
    assert largest_difference(here.model(4), there.model(4)) == 0
    assert there.metrics_file.read_bytes() == here.metrics_file.read_bytes()


def test_the_killed_sites_large_network_went_on_from_its_own_state(poc):
    here, there, _ = poc
    one, other = (load_file(run.site("hospital-a") / "round-0004/state.safetensors") for run in (here, there))
    large = [key for key in one if "large" in key]
    assert large and all(torch.equal(one[key], other[key]) for key in large)


def test_a_client_with_a_certificate_of_another_authority_is_refused(poc):
    _, there, saboteur = poc
    assert "CERTIFICATE_VERIFY_FAILED" in saboteur.stranger_log
    assert "Successfully registered client" not in saboteur.stranger_log
    registered = [
        line
        for file in (there.root / "nvflare").rglob("server/log.txt")
        for line in file.read_text(errors="replace").splitlines()
        if "registered" in line and "hospital-a" in line
    ]
    assert len(registered) <= 1
