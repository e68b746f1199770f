"""``fedhelp foundation``."""

from pathlib import Path

from rich.console import Console

from fedhelp_med.foundation import acquire, load_local_model


def acquire_local(model: Path, public: Path, ledger: Path) -> None:
    """Ask a local model about the public set and say what it cost."""
    console = Console()
    summary = acquire(public, load_local_model(model), ledger)
    console.print(
        f"{ledger}: {summary.asked} images asked in {summary.calls} calls ({summary.seconds:.1f} s), "
        f"{summary.already_known} were known already",
        highlight=False,
        soft_wrap=True,
    )
