"""Writing a job for NVFlare 2.9: an app for the server and one for each site, each with its own plan."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import check_empty, replacing_folder, write_json, write_text
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.loading import SHIPPED_BUNDLES, Federation, bundle_folder
from fedhelp_med.federation.nvflare.plan import PLAN, Plan, plan_of, run_name, write_plan
from fedhelp_med.federation.task import check_networks, task_constants

SCRIPT = "fedhelp_client.py"
CODE = '''"""The site's end of a FedHelp federation; see fedhelp_med.federation.nvflare.script."""

from pathlib import Path

from fedhelp_med.federation.nvflare.script import main

main(Path(__file__).with_name("{plan}"))
'''

ROOM = "fedhelp_med.federation.nvflare"
EVENTS = "analytix_log_stats"

FETCH_SECONDS = 0.2
"""How long a site waits before it asks for its next task (NVFlare's default is 2)."""

GRACE_SECONDS = 20.0
"""How long a site that was reported dead may stay away before the job ends (NVFlare's default is 60)."""

SILENCE_SECONDS = 600.0
"""How long a site may be silent before the job ends: NVFlare's server is as patient with a client's heartbeats."""


def export_job(federation: Federation, out: Path) -> Plan:
    """Write the job of a federation to ``out``.

    Raises:
        InputError: when ``out`` is not empty, or the federation's networks do not fit its data.
    """
    check_empty(out)
    constants = task_constants(federation)
    check_networks(federation, constants)
    plan = plan_of(federation, constants)
    with replacing_folder(out.absolute()) as folder:
        write_job(plan, federation.bundle, folder)
    return plan


def export_acquisition(file: FederationFile, source: Path, model: Path, site: str, out: Path) -> Plan:
    """Write a job of one round in which ``site`` asks a foundation model about the public set.

    Args:
        file: the federation file; its ledger need not exist.
        source: where it was read.
        model: the foundation model's file, as the site names it.
        site: one of the federation's.
        out: the folder for the job.

    Raises:
        InputError: when ``out`` is not empty, there is no such site, or the file names no public set or ledger.
    """
    check_empty(out)
    if site not in (names := sorted(entry.name for entry in file.sites)):
        raise InputError(f"--at: {source} has no site {site!r}; its sites are {', '.join(names)}")
    if file.public is None or file.foundation is None:
        raise InputError(f"{source}: an acquisition needs public.data and foundation.ledger; add them")
    own = [entry for entry in file.sites if entry.name == site]
    aggregation = file.aggregation.model_copy(update={"minimum_sites": 1})
    file = file.model_copy(update={"sites": own, "aggregation": aggregation})
    plan = Plan(f"acquire-{run_name(file)}", file, {}, acquire=str(model.expanduser().absolute()))
    with replacing_folder(out.absolute()) as folder:
        write_job(plan, bundle_folder(file.bundle), folder)
    return plan


def write_job(plan: Plan, bundle: Path, folder: Path, silence: float = SILENCE_SECONDS) -> None:
    """Write a plan's job into an empty folder; a bundle that is not a shipped one travels with it.

    Args:
        plan: the whole federation's.
        bundle: its folder.
        folder: the job's.
        silence: seconds after which a site that does not answer is held for gone.
    """
    names = sorted(site.name for site in plan.file.sites)
    own_bundle = bundle.parent.resolve() != SHIPPED_BUNDLES.resolve()
    if own_bundle:
        file = plan.file.model_copy(update={"bundle": "bundle"})
        plan = dataclasses.replace(plan, file=file)
    for app, part, config in [
        ("app_server", plan.for_server(), _server_config(silence)),
        *((f"app_{name}", plan.for_site(name), _client_config()) for name in names),
    ]:
        custom = folder / app / "custom"
        custom.mkdir(parents=True)
        write_plan(part, custom / PLAN)
        write_text(
            custom / SCRIPT, CODE.format(plan=PLAN)
        )  # at the server it marks the job as one with code of its own
        if own_bundle:
            for path in ("configs", "scripts"):
                if (bundle / path).is_dir():
                    shutil.copytree(bundle / path, custom / "bundle" / path)
        kind = "server" if app == "app_server" else "client"
        write_json(folder / app / "config" / f"config_fed_{kind}.json", config)
    write_json(folder / "meta.json", _meta(plan, names))


def _meta(plan: Plan, names: list[str]) -> dict[str, Any]:
    deployed = {"app_server": ["server"], **{f"app_{name}": [name] for name in names}}
    return {
        "name": plan.run,
        "resource_spec": {},
        "min_clients": plan.file.aggregation.minimum_sites,
        "deploy_map": deployed,
    }


def _server_config(silence: float) -> dict[str, Any]:
    return {
        "format_version": 2,
        "server": {"task_request_interval": FETCH_SECONDS},
        "dead_client_grace_period": GRACE_SECONDS,
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [
            {
                "id": "tracking",
                "path": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
                "args": {"events": [f"fed.{EVENTS}"]},
            }
        ],
        "workflows": [
            {
                "id": "fedhelp",
                "path": f"{ROOM}.controller.FedHelpController",
                "args": {"plan": PLAN, "silence": silence},
            }
        ],
    }


def _client_config() -> dict[str, Any]:
    return {
        "format_version": 2,
        "task_data_filters": [],
        "task_result_filters": [],
        "executors": [
            {
                "tasks": ["train", "validate"],
                "executor": {
                    "id": "fedhelp",
                    "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
                    "args": {
                        "execution_mode": "in_process",
                        "task_script_path": SCRIPT,
                        "params_exchange_format": "raw",
                    },
                },
            }
        ],
        "components": [
            {
                "id": "event_to_fed",
                "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
                "args": {"events_to_convert": [EVENTS]},
            }
        ],
    }
