"""NVFlare's POC in this machine: a process and a certificate for each participant."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.nvflare.plan import RUN_VARIABLE, Plan
from fedhelp_med.federation.workspace import Workspace

ATTEMPTS = 3
"""How often a POC job is submitted when a site is lost in it."""

ADMIN = "admin@nvidia.com"
PATIENCE = 180.0
"""Seconds for the sites of a POC to connect."""
HEARTBEATS = 75.0
"""Seconds after which a site without a heartbeat is not connected; clients send one every 30."""


@contextlib.contextmanager
def running_poc(plan: Plan, folder: Path, workspace: Workspace) -> Iterator[Path]:
    """Provision and start server and sites; yield the administrator's startup kit; stop them all."""
    environment = environment_of(folder, workspace)
    names = sorted(site.name for site in plan.file.sites)
    _command(["poc", "prepare", "-c", *names], environment)
    project = folder / "poc" / "project.yml"
    content = yaml.safe_load(project.read_text(encoding="utf-8"))
    next(entry for entry in content["participants"] if entry["type"] == "server")["fed_learn_port"] = _free_port()
    (folder / "project.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    shutil.rmtree(folder / "poc")
    _command(["poc", "prepare", "-i", str(folder / "project.yml")], environment)
    try:
        _command(["poc", "start", "-ex", ADMIN, "--no-wait"], environment)
        (kit,) = folder.glob(f"poc/*/prod_00/{ADMIN}")
        yield kit
    finally:
        _command(["poc", "stop"], environment, check=False)
        _wait_for_shells(folder)


def submit(kit: Path, plan: Plan, job: Path, workspace: Workspace, look: Callable[[], None]) -> None:
    """Submit the job; when a site was lost in it, wait for the site and submit it again."""
    names = {site.name for site in plan.file.sites}
    session = _session(kit)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            _wait_for_sites(session, names)
            before = len(workspace.events())
            identity = session.submit_job(str(job))
            while not workspace.complete and not _ended(session, identity):
                look()
                time.sleep(0.5)
            look()
            if workspace.complete:
                _wait_for_end(session, identity)
                return
            lost = [site for event in workspace.events()[before:] for site in _lost(event)]
            if not lost or attempt == ATTEMPTS:
                return
            workspace.record("job_submitted_again", sites=lost, attempt=attempt + 1)
    finally:
        session.close()


def _wait_for_shells(folder: Path, seconds: float = 30) -> None:
    """Wait for the shells that watch over NVFlare's processes: one that misses its folder starts its process again."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, folder.glob("poc/*/prod_00/*/daemon_pid.fl"))) and time.monotonic() < deadline:
        time.sleep(0.2)


def _runs(file: Path) -> bool:
    """Whether the process whose number a file holds is there; the file goes with it."""
    try:
        os.kill(int(file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _session(kit: Path) -> Any:
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it greets
                return new_secure_session(ADMIN, str(kit))
        except Exception as error:  # the server is still starting
            if time.monotonic() > deadline:
                raise FedHelpError(f"nvflare-poc: the server does not answer ({error})") from error
            time.sleep(1)


def _wait_for_sites(session: Any, names: set[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while missing := names - _connected(session):
        if time.monotonic() > deadline:
            raise FedHelpError(f"nvflare-poc: {', '.join(sorted(missing))} did not connect within {PATIENCE:.0f} s")
        time.sleep(1)


def _connected(session: Any) -> set[str]:
    """Return the sites that were heard of lately: NVFlare lists a killed one for ten minutes."""
    since = time.time() - HEARTBEATS
    return {client.name for client in session.get_system_info().client_info if client.last_connect_time > since}


def _lost(event: Mapping[str, Any]) -> list[str]:
    """Return the sites that an event reports as gone: NVFlare may notice first, and end the job."""
    if event["event"] == "site_lost":
        return [event["site"]]
    return list(event["waiting_for"]) if event["event"] == "job_interrupted" else []


def _ended(session: Any, identity: str) -> bool:
    return str(session.get_job_meta(identity).get("status", "")).startswith(("FINISHED", "FAILED"))


def _wait_for_end(session: Any, identity: str, seconds: float = 60) -> None:
    """Give the job's cross-site evaluation and its processes time to end."""
    deadline = time.monotonic() + seconds
    while not _ended(session, identity) and time.monotonic() < deadline:
        time.sleep(0.5)


def nvflare_command() -> list[str]:
    """Return what runs NVFlare's command line."""
    return [sys.executable, "-m", "nvflare.cli"]


def environment_of(folder: Path, workspace: Workspace) -> Mapping[str, str]:
    """Return an environment in which all participants share the run folder and leave the home folder alone."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own = {"HOME": str(home), "PATH": path, "NVFLARE_POC_WORKSPACE": str(folder / "poc")}
    return {**os.environ, **own, RUN_VARIABLE: str(workspace.root)}


def _command(arguments: list[str], environment: Mapping[str, str], check: bool = True) -> None:
    done = subprocess.run(
        [*nvflare_command(), *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise FedHelpError(f"nvflare {' '.join(arguments[:2])}: {lines[-1] if lines else 'failed'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
