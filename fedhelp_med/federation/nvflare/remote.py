"""The sites of an NVFlare job as our runner's hosts."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.files import replacing
from fedhelp_med.federation.hosts import Outcome
from fedhelp_med.federation.nvflare.plan import Plan
from fedhelp_med.federation.nvflare.wire import REPORT, REQUEST, pack_arguments, to_arrays, to_tensors, unpack_report
from fedhelp_med.federation.state import load_tensors, save_tensors
from fedhelp_med.federation.workspace import KEPT_ROUNDS, Workspace

POLL = 0.02
"""Seconds between looks at what has arrived."""


class ServerWorkspace(Workspace):
    """The server's run folder: what sites upload lies beside the global model, their own folders are theirs."""

    def update(self, name: str, number: int) -> Path:
        """Return where a site's upload is stored on arrival."""
        return self.root / "updates" / f"round-{number:04d}" / f"{name}.safetensors"

    def commit(self, number: int, rows: Any, details: Any) -> None:
        """Commit a round, and forget old uploads."""
        super().commit(number, rows, details)
        for file in self.root.glob(f"updates/round-{max(0, number - KEPT_ROUNDS):04d}/*.safetensors"):
            file.unlink()


class SiteLostError(FedHelpError):
    """A site's process is gone. The job ends; submitted again, it goes on from the last committed round."""


class Tasks(Protocol):
    """What the controller offers to send tasks with."""

    def connected(self) -> list[str]:
        """Return the names of the sites that take part in the job."""

    def hand_out(self, site: str, step: str, meta: dict[str, str], arrays: Any, on_result: Any) -> None:
        """Send a task to one site; ``on_result(result)`` is called with its result, or with the reason as text."""

    def lost(self, site: str) -> bool:
        """Whether a site is gone."""

    def aborted(self) -> bool:
        """Whether the job is to end."""


class RemoteSites:
    """Executes one step at every site of the job, through NVFlare tasks.

    Args:
        tasks: the controller's.
        names: the federation's sites.
        workspace: the server's run folder of this method.
        part: ``main`` or ``reference``.
    """

    def __init__(self, tasks: Tasks, names: list[str], workspace: Workspace, part: str) -> None:
        self._tasks = tasks
        self._names = sorted(names)
        self._workspace = workspace
        self._part = part

    def each(self, step: str, *arguments: Any) -> Iterator[tuple[str, Outcome]]:
        """Run the step at all sites together; yield outcomes in the order of the sites' names.

        Raises:
            SiteLostError: when a site's process died meanwhile.
        """
        outcomes: dict[str, Outcome] = {}
        arrived = threading.Lock()
        connected = set(self._tasks.connected())
        for name in self._names:
            if name not in connected:
                outcomes[name] = FedHelpError(f"{name}: is not connected")
                continue
            packed, weights = pack_arguments(arguments, name)
            request = {"part": self._part, "step": step, "committed": self._workspace.committed(), "arguments": packed}
            arrays = None if weights is None else to_arrays(load_tensors(weights))

            def on_result(result: Any, name: str = name) -> None:
                outcome = self._outcome(name, step, arguments, result)
                with arrived:
                    outcomes[name] = outcome

            self._tasks.hand_out(name, step, {REQUEST: json.dumps(request)}, arrays, on_result)
        while len(outcomes) < len(self._names):
            self._check(outcomes, step)
            time.sleep(POLL)
        yield from ((name, outcomes[name]) for name in self._names)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close: the sites live in NVFlare's processes."""

    def _check(self, outcomes: dict[str, Outcome], step: str) -> None:
        if self._tasks.aborted():
            waiting = [name for name in self._names if name not in outcomes]
            self._workspace.record("job_interrupted", waiting_for=waiting, step=step)
            raise FedHelpError(f"NVFlare ended the job while it waited for {', '.join(waiting)}")
        for name in self._names:
            if name not in outcomes and self._tasks.lost(name):
                self._workspace.record("site_lost", site=name, step=step)
                raise SiteLostError(f"{name}: its process is gone; submit the job again to go on")

    def _outcome(self, name: str, step: str, arguments: tuple[Any, ...], result: Any) -> Outcome:
        """Turn a result into a report; an update is stored the moment it arrives."""
        if isinstance(result, str):
            return FedHelpError(f"{name}: {result}")
        try:
            told = json.loads(result.meta[REPORT])
            if "error" in told:
                return FedHelpError(told["error"])
            if step == "train" and result.params is not None:
                with replacing(self._workspace.update(name, arguments[0])) as temporary:
                    save_tensors(temporary, to_tensors(result.params))
            return unpack_report(told)
        except Exception as error:  # whatever a foreign site sends
            return FedHelpError(f"{name}: sent a result that cannot be read ({error})")


def acquire_once(tasks: Tasks, plan: Plan, workspace: Workspace) -> None:
    """Let the job's one site ask the foundation model, in one round; write what it cost into the events.

    Raises:
        FedHelpError: when the site could not.
    """
    names = [site.name for site in plan.file.sites]
    for name, outcome in RemoteSites(tasks, names, workspace, "main").each("acquire"):
        if isinstance(outcome, Exception):
            raise FedHelpError(f"the acquisition failed: {outcome}")
        workspace.record("acquired", site=name, **{row.metric: int(row.value) for row in outcome.rows})
