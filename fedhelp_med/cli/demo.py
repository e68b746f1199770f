"""``fedhelp demo``: a federation of simulated sites on real anatomy, from nothing to a table."""

import os
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fedhelp_med.cli.run import quieten, run_watched
from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_text
from fedhelp_med.data import DemoData, make_icbm_sites, make_medmnist_sites
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation import acquire, load_local_model, train_stand_in
from fedhelp_med.report.summary import summarise
from fedhelp_med.report.table import print_summary

ROUNDS = 10
STAND_IN_STEPS = 700


def run_demo(
    out: Path,
    data: Path | None,
    public: Path | None,
    *,
    seed: int,
    rounds: int | None,
    workers: int | None,
    resume: bool,
) -> None:
    """Make the sites and the stand-in foundation model, run local-only and FedHelp, print the table."""
    console = Console()
    quieten()
    begin = time.perf_counter()
    workspace = Workspace(out)
    if workspace.federation_file.is_file() and not resume:
        raise InputError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    if public is not None and data is None:
        raise InputError(f"--public {public}: goes with --data; name a MedMNIST .npz file as well")

    folder = out / "data"
    demo = (
        make_icbm_sites(folder, seed=seed)
        if data is None
        else make_medmnist_sites(folder, data, seed=seed, public_zip=public)
    )
    _introduce(console, demo, data)
    model = train_stand_in(demo.foundation, folder / "foundation", seed=seed, steps=STAND_IN_STEPS, threads=1)
    ledger = folder / "knowledge.sqlite"
    summary = acquire(demo.public, load_local_model(model), ledger)
    console.print(
        f"Foundation model: a stand-in (a larger network trained on blocks that no site has), asked once about "
        f"{summary.asked + summary.already_known} public images.",
        highlight=False,
        soft_wrap=True,
    )

    path = folder / "federation.yaml"
    write_text(path, _federation_text(demo, folder, data, seed, rounds or ROUNDS))
    if workers is None:
        workers = min(2, os.cpu_count() or 1)
    federation = load_federation(path)
    workspace = run_watched(federation, out, console, resume=True, workers=workers)
    print_summary(console, summarise(workspace.rows()), federation.file.method, federation.file.name)
    console.print(f"[dim]{time.perf_counter() - begin:.0f} s. The federation file: {path}[/]", soft_wrap=True)
    console.print(f"Results: {out}", highlight=False, soft_wrap=True)


def _introduce(console: Console, demo: DemoData, data: Path | None) -> None:
    counts = {role: sum(site.role == role for site in demo.sites) for role in ("small", "large")}
    what = "simulated lesions on the ICBM 2009 brain template" if data is None else f"images of {data.name}"
    console.print(f"Sites: {counts['small']} small, {counts['large']} large; {what}.", highlight=False)


def _federation_text(demo: DemoData, folder: Path, data: Path | None, seed: int, rounds: int) -> str:
    content: dict[str, Any] = {
        "name": "demo (simulated lesions)" if data is None else f"demo ({data.stem})",
        "seed": seed,
        "rounds": rounds,
        "method": "fedhelp",
        "preset": "recommended",
        "bundle": "fedhelp_classification",
        "public": {"data": _relative(demo.public, folder)},
        "foundation": {"ledger": "knowledge.sqlite"},
        "reference": "local",
        "sites": [
            {"name": site.name, "role": site.role, "data": _relative(site.datalist, folder)} for site in demo.sites
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)


def _relative(path: Path, folder: Path) -> str:
    return str(path.resolve().relative_to(folder.resolve()))
