"""``fedhelp export``."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedhelp_med.cli.run import quieten
from fedhelp_med.common.errors import InputError


def bundle(run: Path, site: str, out: Path) -> None:
    """Write a site's bundle and say what is in it."""
    from fedhelp_med.export.bundle import export_bundle

    quieten()
    deployed = export_bundle(run, site, out)
    Console().print(
        f"{out}: MONAI bundle of {site} ({' + '.join(deployed.names)})",
        highlight=False,
        soft_wrap=True,
    )


def onnx(run: Path, site: str, out: Path) -> None:
    """Write a site's ONNX model and show what it costs."""
    from fedhelp_med.export.onnx_model import export_onnx

    quieten()
    report = export_onnx(run, site, out)
    console = Console()
    table = Table(title=f"{site}: one answer on one core", title_justify="left")
    table.add_column("runtime")
    table.add_column("time, ms", justify="right")
    table.add_column("times faster", justify="right")
    table.add_column("peak memory, MB", justify="right")
    reference = report.costs["torch"].milliseconds
    for name, cost in report.costs.items():
        table.add_row(name, f"{cost.milliseconds:.2f}", f"{reference / cost.milliseconds:.1f}", f"{cost.megabytes:.0f}")
    console.print(table)
    console.print(
        f"Largest difference of a probability to torch: {report.difference:.1e} "
        f"({report.compared} inputs). One network in place of several: {report.merged}. int8: {report.int8}.",
        highlight=False,
    )
    console.print(f"Model and preprocessing: {out}", highlight=False, soft_wrap=True)


def nvflare(federation: Path, out: Path, acquire: Path | None, at: str | None) -> None:
    """Write an NVFlare job and say what runs it.

    Raises:
        InputError: one of ``acquire`` and ``at`` without the other, a wrong federation file, or ``out`` is not empty.
    """
    from fedhelp_med.federation.loading import load_federation, read_federation_file
    from fedhelp_med.federation.nvflare.job import export_acquisition, export_job

    quieten()
    if (acquire is None) != (at is None):
        raise InputError("--acquire and --at: an acquisition needs both, the model's file and the site that asks it")
    if acquire is not None and at is not None:
        plan = export_acquisition(read_federation_file(federation), federation, acquire, at, out)
    else:
        plan = export_job(load_federation(federation), out)
    Console().print(
        f"{out}: NVFlare job {plan.run} for {', '.join(sorted(site.name for site in plan.file.sites))}; "
        f"submit it with `nvflare job submit -j {out}`",
        highlight=False,
        soft_wrap=True,
    )
