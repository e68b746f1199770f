"""Starting NVFlare's simulator or POC for a federation whose data are all in this machine.

NVFlare's exit status is not trusted: a run is done when its run folder is complete.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import alone_in
from fedhelp_med.federation.loading import Federation, naming
from fedhelp_med.federation.nvflare.job import write_job
from fedhelp_med.federation.nvflare.plan import Plan, plan_of
from fedhelp_med.federation.nvflare.poc import environment_of, nvflare_command, running_poc, submit
from fedhelp_med.federation.observer import Observer, Silent
from fedhelp_med.federation.opening import open_workspace
from fedhelp_med.federation.task import check_networks, task_constants
from fedhelp_med.federation.workspace import Workspace

Runtime = Literal["nvflare-sim", "nvflare-poc"]

SILENCE = 90.0
"""Seconds of silence after which a site of this machine is held for gone: no network can fail here."""


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
        InputError: when NVFlare is missing, ``out`` holds another run, or another process works in it.
        FedHelpError: when the run did not come to its end.
    """
    _require_extra()
    with naming(federation.source):
        constants = task_constants(federation)
        check_networks(federation, constants)
        _check_names(federation)
    workspace = Workspace(out.absolute())
    with alone_in(workspace.root):
        open_workspace(workspace, federation, resume)
        watch = _Watch(workspace, observer or Silent())
        watch.begin(federation)
        _launch(federation, plan_of(federation, constants), workspace, runtime, watch, started)
    if not workspace.complete:
        raise FedHelpError(_last_failure(workspace))
    return workspace


def _launch(
    federation: Federation,
    plan: Plan,
    workspace: Workspace,
    runtime: Runtime,
    watch: "_Watch",
    started: Callable[[Path], None] | None,
) -> None:
    """Start NVFlare in a folder of its own and stay until it has ended."""
    with tempfile.TemporaryDirectory(prefix="fedhelp-nvflare-") as temporary:
        folder = Path(temporary)
        job = folder / "job"
        job.mkdir()
        write_job(plan, federation.bundle, job, SILENCE)
        try:
            if runtime == "nvflare-sim":
                _simulate(plan, job, folder, workspace, watch)
            else:
                with running_poc(plan, folder, workspace) as kit:
                    if started is not None:
                        started(folder / "poc")
                    submit(kit, plan, job, workspace, watch.look)
        finally:
            _keep_logs(folder, workspace.root / "nvflare")


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
            [*nvflare_command(), "simulator", str(job), "-w", str(folder / "simulator"), *sites],
            env=environment_of(folder, workspace),
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


def _require_extra() -> None:
    if find_spec("nvflare") is None:
        raise InputError("nvflare is not installed; it comes with `pip install 'fedhelp-med[nvflare]'`")


def _check_names(federation: Federation) -> None:
    for site in federation.file.sites:
        if site.name.startswith("server") or not all(letter.isalnum() or letter in "-_" for letter in site.name):
            raise InputError(
                f"sites.name: NVFlare does not take {site.name!r}; use letters, digits, - and _, and not 'server'"
            )


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
