"""Starting NVFlare's simulator or POC for a federation whose data are all in this machine.

NVFlare's exit status is not trusted: a run is done when its run folder is complete.
"""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.loading import Federation, naming
from fedhelp_med.federation.nvflare.job import write_job
from fedhelp_med.federation.nvflare.plan import RUN_VARIABLE, Plan, plan_of
from fedhelp_med.federation.observer import Observer, Silent
from fedhelp_med.federation.runner import open_workspace
from fedhelp_med.federation.task import check_networks, task_constants
from fedhelp_med.federation.workspace import Workspace

Runtime = Literal["nvflare-sim", "nvflare-poc"]

ATTEMPTS = 3
"""How often a POC job is submitted when a site's process dies in it."""

ADMIN = "admin@nvidia.com"
PATIENCE = 180.0
"""Seconds for the sites of a POC to connect."""


def run_in_nvflare(
    federation: Federation,
    out: Path,
    runtime: Runtime,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    started: Callable[[Path], None] | None = None,
) -> Workspace:
    """Run a federation in NVFlare's simulator, or in its POC with a process and a certificate for each participant.

    Args:
        federation: read by ``load_federation``.
        out: the run folder; NVFlare's logs go to ``out/nvflare``.
        runtime: ``nvflare-sim`` or ``nvflare-poc``.
        resume: go on in an existing run folder of the same federation.
        observer: is told of every round.
        started: is called with the POC's folder once it runs.

    Raises:
        InputError: when NVFlare is missing, or ``out`` holds another run.
        FedHelpError: when the run did not come to its end.
    """
    _require_extra()
    with naming(federation.source):
        constants = task_constants(federation)
        check_networks(federation, constants)
        _check_names(federation)
    workspace = Workspace(out.absolute())
    open_workspace(workspace, federation, resume)
    watch = _Watch(workspace, observer or Silent())
    watch.begin(federation)
    with tempfile.TemporaryDirectory(prefix="fedhelp-nvflare-") as temporary:
        folder = Path(temporary)
        job = folder / "job"
        job.mkdir()
        plan = plan_of(federation, constants)
        write_job(plan, federation.bundle, job)
        try:
            if runtime == "nvflare-sim":
                _simulate(plan, job, folder, workspace, watch)
            else:
                with _poc(plan, folder, workspace) as kit:
                    if started is not None:
                        started(folder / "poc")
                    _submit(kit, plan, job, workspace, watch)
        finally:
            _keep_logs(folder, workspace.root / "nvflare")
    if not workspace.complete:
        raise FedHelpError(_last_failure(workspace))
    return workspace


class _Watch:
    """Tells an observer of the rounds that another process commits."""

    def __init__(self, workspace: Workspace, observer: Observer) -> None:
        self._workspace, self._observer = workspace, observer
        self._seen = workspace.committed()

    def begin(self, federation: Federation) -> None:
        self._observer.started(
            federation.method.name, self._seen or 0, federation.file.rounds, len(federation.file.sites)
        )

    def look(self) -> None:
        done = self._workspace.committed()
        for number in range(0 if self._seen is None else self._seen + 1, -1 if done is None else done + 1):
            self._observer.round_done(number, [row for row in self._workspace.rows() if row.round == number])
        self._seen = done


def _simulate(plan: Plan, job: Path, folder: Path, workspace: Workspace, watch: _Watch) -> None:
    names = sorted(site.name for site in plan.file.sites)
    sites = ["-c", ",".join(names), "-t", str(len(names))]
    with (folder / "simulator.log").open("wb") as log:
        process = subprocess.Popen(
            [*_nvflare(), "simulator", str(job), "-w", str(folder / "simulator"), *sites],
            env=_environment(folder, workspace),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                watch.look()
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    watch.look()


@contextlib.contextmanager
def _poc(plan: Plan, folder: Path, workspace: Workspace) -> Iterator[Path]:
    """Provision and start server and sites; yield the administrator's startup kit; stop them all."""
    environment = _environment(folder, workspace)
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


def _submit(kit: Path, plan: Plan, job: Path, workspace: Workspace, watch: _Watch) -> None:
    """Submit the job; when a site's process died in it, wait for the site and submit it again."""
    names = {site.name for site in plan.file.sites}
    session = _session(kit)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            _wait_for_sites(session, names)
            before = len(workspace.events())
            identity = session.submit_job(str(job))
            while not workspace.complete and not _ended(session, identity):
                watch.look()
                time.sleep(0.5)
            watch.look()
            if workspace.complete:
                _wait_for_end(session, identity)
                return
            lost = [site for event in workspace.events()[before:] for site in _lost(event)]
            if not lost or attempt == ATTEMPTS:
                return
            workspace.record("job_submitted_again", sites=lost, attempt=attempt + 1)
    finally:
        session.close()


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
    while missing := names - {client.name for client in session.get_system_info().client_info}:
        if time.monotonic() > deadline:
            raise FedHelpError(f"nvflare-poc: {', '.join(sorted(missing))} did not connect within {PATIENCE:.0f} s")
        time.sleep(1)


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


def _require_extra() -> None:
    if find_spec("nvflare") is None:
        raise InputError("nvflare is not installed; it comes with `pip install 'fedhelp-med[nvflare]'`")


def _check_names(federation: Federation) -> None:
    for site in federation.file.sites:
        if site.name.startswith("server") or not all(letter.isalnum() or letter in "-_" for letter in site.name):
            raise InputError(
                f"sites.name: NVFlare does not take {site.name!r}; use letters, digits, - and _, and not 'server'"
            )


def _nvflare() -> list[str]:
    return [sys.executable, "-m", "nvflare.cli"]


def _environment(folder: Path, workspace: Workspace) -> Mapping[str, str]:
    """Return an environment in which all participants share the run folder and leave the home folder alone."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own = {"HOME": str(home), "PATH": path, "NVFLARE_POC_WORKSPACE": str(folder / "poc")}
    return {**os.environ, **own, RUN_VARIABLE: str(workspace.root)}


def _command(arguments: list[str], environment: Mapping[str, str], check: bool = True) -> None:
    done = subprocess.run(
        [*_nvflare(), *arguments], env=environment, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise FedHelpError(f"nvflare {' '.join(arguments[:2])}: {lines[-1] if lines else 'failed'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _keep_logs(folder: Path, out: Path) -> None:
    """Keep NVFlare's logs; its workspaces hold keys and copies, and go."""
    found = [*folder.glob("*.log"), *folder.rglob("log.txt"), *folder.rglob("*.tfevents.*")]
    for file in found:
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def _last_failure(workspace: Workspace) -> str:
    failures = [event for event in workspace.events() if event["event"] in ("job_failed", "site_failed", "site_lost")]
    logs = workspace.root / "nvflare"
    if not failures:
        return f"NVFlare ended the run without a result; its logs are in {logs}"
    last = next((event for event in failures[::-1] if event["event"] == "job_failed"), failures[-1])
    return f"the NVFlare run failed: {last.get('error', last['event'])}; its logs are in {logs}"
