"""``fedhelp run``."""

import logging
import warnings
from pathlib import Path
from typing import Literal

from rich.console import Console

from fedhelp_med.cli.progress import ProgressObserver
from fedhelp_med.cli.report import end_with_report
from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.loading import Federation, load_federation
from fedhelp_med.federation.metering import metered_client
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.report.summary import summarise
from fedhelp_med.report.table import print_summary

Runtime = Literal["in-process", "nvflare-sim", "nvflare-poc"]


def run_file(
    path: Path, out: Path, *, resume: bool, workers: int | None = None, runtime: Runtime = "in-process"
) -> None:
    """Run the federation in ``path`` and print its table."""
    console = Console()
    federation = load_federation(path)
    if runtime == "in-process":
        workspace = run_watched(federation, out, console, resume=resume, workers=workers)
    else:
        from fedhelp_med.federation.nvflare.launch import run_in_nvflare

        quieten()
        with ProgressObserver(console) as observer:
            workspace = run_in_nvflare(federation, out, runtime, resume=resume, observer=observer)
    print_summary(console, summarise(workspace.rows()), federation.file.method, federation.file.name)
    console.print(f"Results: {out}", highlight=False, soft_wrap=True)
    end_with_report(console, out)
    check_tested(workspace)


def check_tested(workspace: Workspace) -> None:
    """Raise a ``FedHelpError`` that names the sites without a result, where testing failed."""
    if untested := workspace.untested:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in untested.items())
        raise FedHelpError(f"testing failed at {reasons}. Correct it and go on with --resume, which tests again")


def run_watched(federation: Federation, out: Path, console: Console, *, resume: bool, workers: int | None) -> Workspace:
    """Run a federation under a progress bar, without the libraries' chatter."""
    quieten()
    if workers is not None:
        runtime = federation.file.runtime.model_copy(update={"workers": workers})
        federation = federation.with_file(federation.file.model_copy(update={"runtime": runtime}))
    with ProgressObserver(console) as observer:
        return run_federation(federation, out, resume=resume, observer=observer, create=metered_client)


def quieten() -> None:
    """Leave the terminal to results: events.jsonl has what happened. Worker processes are no more talkative."""
    for name in ("monai", "ignite", "py.warnings", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("monai", "ignite") or name == "py.warnings":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="executing the bundle config under")
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
