"""``fedhelp foundation``: what its commands do, and say."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedhelp_med.cli.run import quieten
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.loading import read_federation_file
from fedhelp_med.foundation import (
    FoundationModel,
    Ledger,
    Limits,
    ModelDescription,
    Quality,
    RestModel,
    acquire,
    cover,
    export_ledger,
    import_ledger,
    open_model,
    plan_acquisition,
)
from fedhelp_med.foundation.reading import Progress as Report

OPTIONS = {"max_images": "--max-images", "max_calls": "--max-calls", "max_bytes": "--max-bytes"}
NAMED = 5  # how many of many refused images are named


def acquire_knowledge(
    model: Path,
    public: Path | None,
    ledger: Path | None,
    *,
    federation: Path | None,
    private: Sequence[Path],
    dry_run: bool,
    limits: Limits,
    concurrency: int,
    batch_size: int | None,
    minimum_quality: float | None,
) -> None:
    """Ask a model about the public set, or say what would be asked; say what it cost and how good the model is.

    Raises:
        InputError: an option, the model or a datalist is wrong, or the guard refuses an image.
        FedHelpError: the model fails, or the command was stopped.
    """
    console = Console()
    quieten()
    file = None if federation is None else read_federation_file(federation)
    public, ledger = _public(public, file), _ledger(ledger, file)
    known = [*private, *_present(console, file)]
    asked = open_model(model)
    _introduce(console, asked, known)
    if dry_run:
        _plan(console, public, asked, ledger, known, batch_size, limits)
        return
    try:
        with _watch(console, "asked") as report:
            summary = acquire(
                public,
                asked,
                ledger,
                private=known,
                batch_size=batch_size,
                concurrency=concurrency,
                limits=limits,
                progress=report,
            )
    except KeyboardInterrupt:
        raise FedHelpError(f"stopped; what was answered is in {ledger}, and the same command goes on") from None
    requests = "" if summary.requests <= summary.calls else f" ({summary.requests:,} requests with repetitions)"
    _say(
        console,
        f"{ledger}: {_number(summary.asked, 'image')} asked in {_number(summary.calls, 'call')}{requests}, "
        f"{_size(summary.bytes)}, {summary.seconds:.1f} s; {summary.already_known:,} were known already",
    )
    if summary.exhausted:
        left = f"{summary.remaining:,} images were not dealt with; the same command goes on"
        _say(console, f"Stopped at {OPTIONS[summary.exhausted]}: {left}")
    _coverage(console, public, ledger, str(ModelDescription.of(asked)), minimum_quality)


def show_ledger(ledger: Path, public: Path | None, model: str | None, minimum_quality: float | None) -> None:
    """Print the totals, the cost and the models of a ledger, and its coverage of a public set."""
    console = Console()
    quieten()
    with Ledger(ledger, readonly=True) as book:
        summary, models = book.summary(), book.models()
    origin = f", {summary.imported:,} of them imported" if summary.imported else ""
    _say(console, f"{ledger}: {_number(summary.images, 'answer')}{origin}")
    for entry in models:
        size = " x ".join(map(str, entry.input.shape))
        classes = f" ({', '.join(entry.classes)})" if entry.classes else ""
        _say(console, f"  {entry}: {entry.kind}{classes} of images {size}")
    _say(
        console,
        f"Cost: {_number(summary.calls, 'call')}, {_number(summary.attempts, 'request')}, {_size(summary.sent)} sent, "
        f"{_size(summary.received)} received, {summary.seconds:.1f} s of waiting",
    )
    for count, what in (
        (summary.failed, "failed calls"),
        (summary.uncertain, "calls that were never completed: their images may have reached the model"),
        (summary.resent, "images that were sent more than once"),
        (summary.under_way, "calls under way"),
    ):
        if count:
            _say(console, f"  {count:,} {what}")
    if public is not None:
        _coverage(console, public, ledger, model, minimum_quality)


def export_knowledge(ledger: Path, file: Path) -> None:
    """Write a ledger's answers to a file."""
    done = export_ledger(ledger, file)
    _say(Console(), f"{file}: {done.images:,} answers of {', '.join(done.models)}")


def import_knowledge(file: Path, ledger: Path) -> None:
    """Take a file's answers into a ledger."""
    done = import_ledger(file, ledger)
    known = done.images - done.new
    _say(Console(), f"{ledger}: {done.new:,} new answers of {', '.join(done.models)}; {known:,} were known already")


def _public(given: Path | None, file: FederationFile | None) -> Path:
    if given is not None:
        return given
    if file is None or file.public is None:
        raise InputError("--public is missing: name the public datalist, or a --federation that has one")
    return Path(file.public.data)


def _ledger(given: Path | None, file: FederationFile | None) -> Path:
    if given is not None:
        return given
    if file is None or file.foundation is None:
        raise InputError("--ledger is missing: name the file for the answers, or a --federation that has one")
    return Path(file.foundation.ledger)


def _present(console: Console, file: FederationFile | None) -> list[Path]:
    """Return the datalists of the federation's sites that are on this machine."""
    sites = [] if file is None else file.sites
    absent = [site.name for site in sites if not Path(site.data).exists()]
    if absent:
        _say(console, f"Not on this machine, so not compared: {', '.join(absent)}")
    return [Path(site.data) for site in sites if site.name not in absent]


def _introduce(console: Console, model: FoundationModel, private: Sequence[Path]) -> None:
    where = model.service.endpoint.url if isinstance(model, RestModel) else "this machine"
    _say(console, f"Model: {ModelDescription.of(model)}, {model.kind}, at {where}")
    if private:
        _say(console, f"Private, never sent: {', '.join(map(str, private))}")
    else:
        _say(console, "No private data named: copies of them are only found with --private or --federation")


def _plan(
    console: Console,
    public: Path,
    model: FoundationModel,
    ledger: Path,
    private: Sequence[Path],
    batch_size: int | None,
    limits: Limits,
) -> None:
    with _watch(console, "looked at") as report:
        plan = plan_acquisition(
            public, model, ledger, private=private, batch_size=batch_size, limits=limits, progress=report
        )
    size = " x ".join(map(str, model.input.shape))
    leaves = "nothing leaves this machine"
    if isinstance(model, RestModel):
        leaves = f"to {model.service.endpoint.url}: the pixels alone, {size} each, no name, header, label or path"
    _say(
        console,
        f"Would be sent: {plan.asked:,} of {_number(plan.images, 'image')} in {_number(plan.calls, 'call')}, "
        f"{_size(plan.bytes)} as float32; {leaves}",
    )
    if plan.exhausted:
        _say(console, f"{OPTIONS[plan.exhausted]} would leave {plan.remaining:,} images for another time")
    if plan.refused:
        more = f"\nand {len(plan.refused) - NAMED:,} more" if len(plan.refused) > NAMED else ""
        raise InputError(f"the privacy guard refuses:\n{chr(10).join(plan.refused[:NAMED])}{more}")


def _coverage(console: Console, public: Path, ledger: Path, model: str | None, minimum: float | None) -> None:
    found = cover(public, ledger, model)
    _say(console, f"{public}: {found.answered:,} of {found.images:,} images have an answer of {found.model}")
    if found.quality is None:
        _say(console, f"Quality: not known; {found.reason}")
        return
    _say(console, f"Quality on {found.quality.images:,} labelled images: {describe_quality(found.quality)}")
    minimum = found.quality.minimum if minimum is None else minimum
    if found.quality.score < minimum:
        _say(
            console,
            f"Warning: its score {found.quality.score:.3f} is below {minimum:g}: such a teacher may do more "
            "harm than good. Leave it out, or set foundation.follow_quality: true in the federation file",
            style="yellow",
        )


def describe_quality(quality: Quality) -> str:
    """Return one line about a model's quality."""
    if quality.balanced_accuracy is None:
        dice = "undefined" if quality.dice is None else f"{quality.dice:.3f}"
        what = [f"Dice {dice}", f"accuracy of positions {quality.accuracy:.3f}"]
    else:
        what = [
            f"accuracy {quality.accuracy:.3f}",
            f"balanced accuracy {quality.balanced_accuracy:.3f} (chance-corrected {quality.score:.3f})",
            "AUC undefined" if quality.auc is None else f"AUC {quality.auc:.3f}",
        ]
    return (
        f"{', '.join(what)}; calibration error {quality.error:.3f}, at temperature {quality.temperature:.2f} "
        f"{quality.error_calibrated:.3f}; NLL {quality.nll:.3f}, calibrated {quality.nll_calibrated:.3f}"
    )


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + "s" * (count != 1)


def _size(number: int) -> str:
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if number >= 1000**power:
            return f"{number / 1000**power:.1f} {unit}"
    return f"{number} B"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _watch(console: Console, what: str) -> Iterator[Report]:
    """Show how far it is and how long it will take: a bar on a terminal, a line every fifth elsewhere."""
    bar = Progress(
        TextColumn(f"Images {what}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None)
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total)
        if not console.is_terminal and done * 5 // total > shown:
            shown = done * 5 // total
            _say(console, f"{done:,} of {total:,} images {what}")

    with bar:
        yield report
