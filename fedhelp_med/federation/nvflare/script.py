"""The site's end: a script for NVFlare's Client API around ``SiteHost`` and its ``FedHelpAlgo``."""

import json
import shutil
import traceback
from pathlib import Path
from typing import Any

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.jobs import site_job
from fedhelp_med.federation.nvflare.plan import Plan, read_plan, site_federation
from fedhelp_med.federation.nvflare.wire import REPORT, REQUEST, pack_report, to_arrays, to_tensors, unpack_arguments
from fedhelp_med.federation.runner import reference_of
from fedhelp_med.federation.site import SiteHost, SiteReport
from fedhelp_med.federation.state import load_tensors, save_tensors
from fedhelp_med.federation.workspace import KEPT_ROUNDS, Workspace


def main(plan_file: Path) -> None:
    """Answer the server's tasks until the job ends."""
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter

    flare.init()
    participant = Participant(read_plan(plan_file), flare.get_site_name())
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        told, arrays = participant.answer(model.meta, model.params)
        for row in told.get("rows", []):
            tag = f"{row['split']}/{row['model']}/{row['metric']}"
            writer.add_scalar(tag, row["value"], global_step=row["round"])
        flare.send(flare.FLModel(params=arrays, metrics=_metrics(told), meta={REPORT: json.dumps(told)}))


STEPS = ("train", "evaluate", "count", "test")
"""What a server may ask for."""


class Participant:
    """A site in an NVFlare job. Its state is in its run folder, so a restarted process goes on from there.

    Args:
        plan: the site's.
        name: as NVFlare knows the site, which has to be the federation's name for it.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.name = name
        self._plan = plan
        self._workspace = Workspace(plan.folder())
        self._hosts: dict[str, SiteHost] = {}

    def answer(self, meta: dict[str, Any], arrays: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
        """Execute the request in a task's ``meta``; return what is told, and the update as arrays or None.

        What fails is told, not raised: NVFlare would end the whole job.
        """
        request = json.loads(meta[REQUEST])
        try:
            return self._execute(request, arrays)
        except Exception as error:
            reason = str(error) if isinstance(error, FedHelpError) else f"{type(error).__name__}: {error}"
            return {"error": reason, "traceback": traceback.format_exc()}, None

    def _execute(self, request: dict[str, Any], arrays: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
        part, step, committed = request["part"], request["step"], request["committed"]
        if step not in STEPS:
            raise FedHelpError(f"{self.name}: was asked for {step!r}; it answers to {', '.join(STEPS)}")
        workspace = self._workspace.reference if part == "reference" else self._workspace
        folder = workspace.site(self.name)
        if part not in self._hosts:
            _keep_committed(folder, committed)
            self._hosts[part] = self._host(part, workspace)
        _forget(folder, committed)
        incoming = folder / "incoming.safetensors"
        if arrays is not None:
            save_tensors(incoming, to_tensors(arrays))
        try:
            arguments = unpack_arguments(request["arguments"], self.name, incoming)
            report: SiteReport = getattr(self._hosts[part], step)(*arguments)
        finally:
            incoming.unlink(missing_ok=True)
        update = workspace.update(self.name, arguments[0]) if step == "train" else None
        sent = to_arrays(load_tensors(update)) if update is not None and update.is_file() else None
        return pack_report(report), sent

    def _host(self, part: str, workspace: Workspace) -> SiteHost:
        federation = site_federation(self._plan)
        site = federation.sites[0]
        if site.name != self.name:
            raise FedHelpError(f"{self.name}: NVFlare calls this site so, the federation calls it {site.name}")
        if part == "reference":
            federation = reference_of(federation)
        return SiteHost(site_job(federation, workspace, self._plan.constants, site))


def _keep_committed(folder: Path, committed: int | None) -> None:
    """Discard the state of a round that the server did not commit: it will be repeated."""
    for path in folder.glob("round-*"):
        if committed is None or _number(path) > committed:
            shutil.rmtree(path, ignore_errors=True)


def _forget(folder: Path, committed: int | None) -> None:
    """Forget what the server's own folder would forget as well."""
    for path in folder.glob("round-*"):
        if committed is not None and _number(path) <= committed - KEPT_ROUNDS:
            shutil.rmtree(path, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round-"))


def _metrics(told: dict[str, Any]) -> dict[str, float]:
    """Return the results for NVFlare's own eyes; it wants a mapping, and not an empty one."""
    found = {f"{row['model']}_{row['metric']}": row["value"] for row in told.get("rows", [])}
    return found or {"finished": float("error" not in told)}
