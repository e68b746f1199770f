"""``fedhelp demo``: a federation of simulated sites on real anatomy, from nothing to a table."""

import os
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fedhelp_med.cli.examples import Example, Task, make_example
from fedhelp_med.cli.report import end_with_report
from fedhelp_med.cli.run import check_tested, quieten, run_watched
from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_text
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation import acquire, load_local_model, train_stand_in
from fedhelp_med.report.summary import summarise
from fedhelp_med.report.table import print_summary

STAND_IN_STEPS = 700


def run_demo(
    out: Path,
    data: Path | None,
    public: Path | None,
    *,
    task: Task = "classification",
    seed: int,
    rounds: int | None,
    workers: int | None,
    resume: bool,
) -> None:
    """Make the sites and the stand-in foundation model, run local-only and FedHelp, print the table.

    Raises:
        InputError: ``out`` holds a run already, or ``data`` or ``public`` is not of the task's kind.
    """
    console = Console()
    quieten()
    begin = time.perf_counter()
    workspace = Workspace(out)
    if workspace.federation_file.is_file() and not resume:
        raise InputError(f"{out}: holds a run already; go on with --resume, or choose another --out")

    folder = out / "data"
    example = make_example(task, folder, data, public, seed)
    _introduce(console, example)
    model = train_stand_in(
        example.data.foundation,
        folder / "foundation",
        seed=seed,
        steps=STAND_IN_STEPS,
        batch_size=example.stand_in_batch,
        threads=1,
        input=example.stand_in_input,
    )
    ledger = folder / "knowledge.sqlite"
    summary = acquire(example.data.public, load_local_model(model), ledger)
    console.print(
        f"Foundation model: a stand-in (a larger network trained on data that no site has), asked once about "
        f"{summary.asked + summary.already_known} public images.",
        highlight=False,
        soft_wrap=True,
    )

    path = folder / "federation.yaml"
    write_text(path, _federation_text(example, folder, seed, rounds or example.rounds))
    if workers is None:
        workers = min(2, os.cpu_count() or 1)
    federation = load_federation(path)
    workspace = run_watched(federation, out, console, resume=True, workers=workers)
    print_summary(console, summarise(workspace.rows()), federation.file.method, federation.file.name)
    console.print(f"[dim]{time.perf_counter() - begin:.0f} s. The federation file: {path}[/]", soft_wrap=True)
    console.print(f"Results: {out}", highlight=False, soft_wrap=True)
    end_with_report(console, out)
    check_tested(workspace)


def _introduce(console: Console, example: Example) -> None:
    counts = {role: sum(site.role == role for site in example.data.sites) for role in ("small", "large")}
    console.print(f"Sites: {counts['small']} small, {counts['large']} large; {example.what}.", highlight=False)


def _federation_text(example: Example, folder: Path, seed: int, rounds: int) -> str:
    content: dict[str, Any] = {
        "name": example.title,
        "seed": seed,
        "rounds": rounds,
        "local_epochs": example.local_epochs,
        "method": "fedhelp",
        "preset": "recommended",
        "bundle": example.bundle,
        "overrides": dict(example.overrides),
        "public": {"data": _relative(example.data.public, folder)},
        "foundation": {"ledger": "knowledge.sqlite"},
        "reference": "local",
        "sites": [
            {"name": site.name, "role": site.role, "data": _relative(site.datalist, folder)}
            for site in example.data.sites
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)


def _relative(path: Path, folder: Path) -> str:
    return str(path.resolve().relative_to(folder.resolve()))
