"""NVFlare's server end: a controller that drives our runner."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReservedTopic, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from fedhelp_med.common.errors import reason_of
from fedhelp_med.federation.hosts import Hosts
from fedhelp_med.federation.loading import Federation, save_federation
from fedhelp_med.federation.nvflare.plan import PLAN, Plan, read_plan, server_federation
from fedhelp_med.federation.nvflare.pulse import Pulse
from fedhelp_med.federation.nvflare.remote import RemoteSites, ServerWorkspace, acquire_once
from fedhelp_med.federation.nvflare.selection import BestModel, cross_evaluate
from fedhelp_med.federation.runner import run_methods
from fedhelp_med.federation.workspace import Workspace

ANSWER_SECONDS = 5.0
"""How long a site's process may take to say that it is there."""


class FedHelpController(Controller):  # type: ignore[misc]  # NVFlare is untyped here
    """Runs a federation: the same rounds, aggregation, server steps and run folder as ``fedhelp run``.

    It goes on in the run folder that it finds, so a job that is submitted again continues. Whatever goes wrong ends
    the job with a panic, which NVFlare reports as a failed job.

    Args:
        silence: seconds after which a site that does not answer is held for gone, which ends the job.
        plan: the name of the plan's file in the app's ``custom`` folder.
    """

    def __init__(self, silence: float, plan: str = PLAN) -> None:
        super().__init__(task_check_period=0.05)
        self._plan_name = plan
        self._silence = silence
        self._pulse: Pulse
        self._context: FLContext
        self._signal: Signal

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Read the plan."""
        folder = fl_ctx.get_engine().get_workspace().get_app_custom_dir(fl_ctx.get_job_id())
        self._plan: Plan = read_plan(Path(folder) / self._plan_name)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the federation to its end."""
        self._signal, self._context = abort_signal, fl_ctx
        workspace = ServerWorkspace(self._plan.folder().absolute())
        self._pulse = Pulse(self._answering, self.connected(), self._silence)
        try:
            with self._pulse:
                self._run(workspace)
        except Exception as error:
            reason = reason_of(error)
            workspace.record("job_failed", error=reason, traceback=traceback.format_exc())
            self.system_panic(reason, fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to stop."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Leave a result that comes too late aside: its round goes without it."""
        self.log_warning(fl_ctx, f"a late result of {client.name} for {task_name} is left aside")

    def connected(self) -> list[str]:
        """Return the names of the sites that take part in the job."""
        return [client.name for client in self._context.get_engine().get_clients()]

    def lost(self, site: str) -> bool:
        """Whether NVFlare holds a site for gone, or its process has been silent for too long."""
        return self.get_client_disconnect_time(site) is not None or self._pulse.silent(site)

    def aborted(self) -> bool:
        """Whether the job is to end."""
        return bool(self._signal.triggered)

    def hand_out(
        self, site: str, step: str, meta: dict[str, str], arrays: Any, on_result: Callable[[Any], None]
    ) -> None:
        """Send a task to one site."""

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            result, client_task.result = client_task.result, None
            code = result.get_return_code()
            failed = code and code != ReturnCode.OK
            on_result(f"NVFlare reports {code}; see the site's log" if failed else FLModelUtils.from_shareable(result))

        model = FLModel(params=arrays, metrics=None if arrays else {"weights": 0.0}, meta=meta)
        name = AppConstants.TASK_TRAIN if step == "train" else AppConstants.TASK_VALIDATION
        task = Task(name=name, data=FLModelUtils.to_shareable(model), result_received_cb=received)
        self.broadcast(task=task, fl_ctx=self._context, targets=[site], min_responses=1)

    def _answering(self) -> list[str]:
        """Return the names of the sites whose process of this job answers."""
        engine = self._context.get_engine()
        with engine.new_context() as context:
            replies = engine.send_aux_request(
                targets=self.connected(),
                topic=ReservedTopic.JOB_HEART_BEAT,
                request=Shareable(),
                timeout=ANSWER_SECONDS,
                fl_ctx=context,
                optional=True,
            )
        return [name for name, reply in (replies or {}).items() if reply.get_return_code() == ReturnCode.OK]

    def _run(self, workspace: ServerWorkspace) -> None:
        if self._plan.acquire is not None:
            acquire_once(self, self._plan, workspace)
            return
        federation = server_federation(self._plan)
        if not workspace.federation_file.is_file():
            save_federation(federation, workspace.federation_file)

        def sites(of: Federation, where: Workspace, _: Mapping[str, Any]) -> Hosts:
            part = "main" if where.root == workspace.root else "reference"
            return RemoteSites(self, [site.name for site in of.sites], where, part)

        small = [site.name for site in federation.sites if site.role == "small"]
        best = BestModel(workspace, small or [site.name for site in federation.sites])
        runner = run_methods(federation, workspace, self._plan.constants, best, sites)
        if federation.method.exchange == "weights":
            cross_evaluate(runner, sites(federation, workspace, self._plan.constants), workspace)
