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
from fedhelp_med.federation.site import SiteHost
from fedhelp_med.federation.site_messages import SiteReport
from fedhelp_med.federation.state import load_tensors, save_tensors
from fedhelp_med.federation.workspace import Row, Workspace, forget_states
from fedhelp_med.foundation.acquisition import acquire
from fedhelp_med.foundation.opening import open_model


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

        What fails is told, not raised: NVFlare would end the whole job. The server hears the kind of failure only; a
        message may name a patient's file, so it stays in the site's own ``events.jsonl``.
        """
        request = json.loads(meta[REQUEST])
        try:
            return self._execute(request, arrays)
        except Exception as error:
            self._workspace.record(
                "failed_here", site=self.name, step=request["step"], error=str(error), traceback=traceback.format_exc()
            )
            return {"error": f"{self.name}: {type(error).__name__}; its own events.jsonl says more"}, None

    def _execute(self, request: dict[str, Any], arrays: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
        if request["step"] == "acquire":
            return self._acquire(), None
        part, step, committed = request["part"], request["step"], request["committed"]
        if step not in STEPS:
            raise FedHelpError(f"{self.name}: was asked for {step!r}; it answers to {', '.join(STEPS)}")
        workspace = self._workspace.reference if part == "reference" else self._workspace
        folder = workspace.site(self.name)
        if part not in self._hosts:
            _keep_committed(folder, committed)
            self._hosts[part] = self._host(part, workspace)
        forget_states(folder)
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

    def _acquire(self) -> dict[str, Any]:
        """Ask the foundation model about the public set, once; the answers stay in this site's ledger."""
        file, model = self._plan.file, self._plan.acquire
        if model is None or file.public is None or file.foundation is None:
            raise FedHelpError(f"{self.name}: this job is not one of acquisition")
        own = [Path(site.data) for site in file.sites]
        summary = acquire(Path(file.public.data), open_model(model), Path(file.foundation.ledger), private=own)
        told = {"asked": summary.asked, "already_known": summary.already_known, "calls": summary.calls}
        role = file.sites[0].role
        rows = [Row(0, self.name, role, "foundation", "public", key, float(value)) for key, value in told.items()]
        return pack_report(SiteReport(rows=rows, seconds=summary.seconds))

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


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round-"))


def _metrics(told: dict[str, Any]) -> dict[str, float]:
    """Return the results for NVFlare's own eyes; it wants a mapping, and not an empty one."""
    found = {f"{row['model']}_{row['metric']}": row["value"] for row in told.get("rows", [])}
    return found or {"finished": float("error" not in told)}
