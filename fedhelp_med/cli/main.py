"""``fedhelp``: exit status 0 done, 1 the work failed, 2 the input is wrong."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedhelp_med import __version__
from fedhelp_med.common.errors import FedHelpError

app = typer.Typer(
    name="fedhelp",
    help="Federated learning for medical imaging in which small and large sites teach each other (FedHelp).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
foundation = typer.Typer(help="One-time knowledge of a foundation model.", no_args_is_help=True)
app.add_typer(foundation, name="foundation")

OutOption = Annotated[Path, typer.Option("--out", help="The folder for the results; it has to be new or empty.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on in an existing run folder.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; the numbers stay the same.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhelp-med {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the log of the libraries.")] = False,
) -> None:
    if debug:
        global _debug
        _debug = True


_debug = False


@app.command()
def demo(
    out: OutOption = Path("demo-run"),
    task: Annotated[
        Literal["classification", "segmentation"], typer.Option(help="Find lesions, or outline brain tissue.")
    ] = "classification",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Instead of the brain template: a MedMNIST .npz file; for segmentation a folder of blood cells."
        ),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(help="With --data, as public set: a zip of one folder a class; for segmentation a second folder."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; default as documented.")] = None,
    workers: WorkersOption = None,
    resume: ResumeOption = False,
) -> None:
    """Make small and large demo sites, let them train together, and show who gained what."""
    from fedhelp_med.cli.demo import run_demo

    run_demo(out, data, public, task=task, seed=seed, rounds=rounds, workers=workers, resume=resume)


@app.command()
def run(
    federation: Annotated[Path, typer.Argument(help="The federation file (YAML).")],
    out: OutOption,
    resume: ResumeOption = False,
    workers: WorkersOption = None,
) -> None:
    """Run the federation that a file describes."""
    from fedhelp_med.cli.run import run_file

    run_file(federation, out, resume=resume, workers=workers)


@app.command()
def compare(
    federation: Annotated[Path, typer.Argument(help="The federation file (YAML).")],
    methods: Annotated[
        str, typer.Option(help="Methods with commas between them; METHOD@key=value,... changes a key of the file.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for the results. The same command goes on in it.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the file's on.")] = 3,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes, a cell each; by default one a core.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Compare by this metric; by default auc, else dice_mean.")] = None,
    split: Annotated[
        Literal["testing", "validation"], typer.Option(help="What the tables show; choose settings on validation.")
    ] = "testing",
) -> None:
    """Run the same federation under several methods and seeds, and show who gains what."""
    from fedhelp_med.cli.compare import compare_methods

    compare_methods(federation, methods, seeds=seeds, out=out, workers=workers, metric=metric, split=split)


@foundation.command()
def acquire(
    model: Annotated[Path, typer.Option(help="A local model: foundation.json, or the folder of a MONAI bundle.")],
    public: Annotated[Path, typer.Option(help="The public datalist. Nothing else is read.")],
    ledger: Annotated[Path, typer.Option(help="The ledger that keeps the answers; made when it does not exist.")],
) -> None:
    """Ask a foundation model about every public image, once."""
    from fedhelp_med.cli.foundation import acquire_local

    acquire_local(model, public, ledger)


def main() -> None:
    """Run the command line; errors are one readable message on stderr."""
    try:
        app(standalone_mode=False)
    except FedHelpError as error:
        if _debug:
            raise
        sys.stderr.write(f"fedhelp: {error}\n")
        sys.exit(error.exit_status)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("fedhelp: stopped; a run can be continued with --resume\n")
        sys.exit(1)
    except Exception as error:
        shown = getattr(error, "show", None)
        if callable(shown):  # a usage error of the command line itself
            shown()
            sys.exit(getattr(error, "exit_code", 2))
        if _debug:
            raise
        sys.stderr.write(f"fedhelp: {type(error).__name__}: {error} (run again with --debug for the whole story)\n")
        sys.exit(1)
