"""The commands of ``fedhelp foundation``, and what may be said to them."""

from pathlib import Path
from typing import Annotated

import typer

foundation = typer.Typer(help="One-time knowledge of a foundation model.", no_args_is_help=True)

LedgerArgument = Annotated[Path, typer.Argument(help="The ledger.")]
QualityOption = Annotated[
    float | None,
    typer.Option(help="Warn below: chance-corrected balanced accuracy (default 0.2), for masks Dice (default 0.5)."),
]


@foundation.command()
def acquire(
    model: Annotated[Path, typer.Option(help="A foundation.json (a service, or a file), or a MONAI bundle's folder.")],
    public: Annotated[
        Path | None, typer.Option(help='The datalist that declares "public": true; by default the federation\'s.')
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Keeps the answers; made when it does not exist; by default the federation's.")
    ] = None,
    federation: Annotated[
        Path | None, typer.Option(help="A federation file; its sites' data on this machine are private.")
    ] = None,
    private: Annotated[
        list[Path] | None, typer.Option(help="A datalist of your own data: none of it is sent; repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send and write nothing.")] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="Send at most so many images.")] = None,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Make at most so many requests.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Send at most so much: 500000, 20MB, 1.5GB.")] = None,
    rate: Annotated[float | None, typer.Option(help="Calls per second at most.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls under way at most.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per call; default: what the model takes.")
    ] = None,
    minimum_quality: QualityOption = None,
) -> None:
    """Ask a foundation model about every public image, once."""
    from fedhelp_med.cli.foundation import acquire_knowledge
    from fedhelp_med.foundation.limits import Limits

    acquire_knowledge(
        model,
        public,
        ledger,
        federation=federation,
        private=private or [],
        dry_run=dry_run,
        limits=Limits(max_images, max_calls, _bytes(max_bytes), rate),
        concurrency=concurrency,
        batch_size=batch_size,
        minimum_quality=minimum_quality,
    )


@foundation.command()
def show(
    ledger: LedgerArgument,
    public: Annotated[Path | None, typer.Option(help="A datalist: how much of it is known, and how well.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME or 'NAME VERSION', if there are several.")] = None,
    minimum_quality: QualityOption = None,
) -> None:
    """Show what a ledger holds, what it cost, and how good its model is."""
    from fedhelp_med.cli.foundation import show_ledger

    show_ledger(ledger, public, model, minimum_quality)


@foundation.command("export")
def export_answers(
    ledger: LedgerArgument,
    file: Annotated[Path, typer.Argument(help="The file to write (.safetensors); no image and no path is in it.")],
) -> None:
    """Write a ledger's answers to one file, for other sites."""
    from fedhelp_med.cli.foundation import export_knowledge

    export_knowledge(ledger, file)


@foundation.command("import")
def import_answers(
    file: Annotated[Path, typer.Argument(help="A file that `fedhelp foundation export` wrote.")],
    ledger: Annotated[Path, typer.Argument(help="The ledger; made when it does not exist.")],
) -> None:
    """Take the answers in a file into a ledger."""
    from fedhelp_med.cli.foundation import import_knowledge

    import_knowledge(file, ledger)


def _bytes(text: str | None) -> int | None:
    """Read a number of bytes: ``500000``, ``20MB``, ``1.5 GB`` (powers of 1000)."""
    if text is None:
        return None
    from fedhelp_med.common.errors import InputError

    number = text.strip().upper().removesuffix("B").rstrip()
    power = "KMGT".find(number[-1:]) + 1 if number else 0
    try:
        return int(float(number[:-1] if power else number) * 1000**power)
    except (ValueError, OverflowError):
        raise InputError(f"--max-bytes is {text!r}: write a number of bytes, such as 500000, 20MB or 1.5GB") from None
