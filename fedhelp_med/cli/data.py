"""``fedhelp data scan`` and ``fedhelp data check``."""

from collections import Counter
from collections.abc import Sequence
from json import loads
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.files import write_json, write_text
from fedhelp_med.data.check import ERROR, Problem, SiteCheck, as_json, check_site
from fedhelp_med.data.check_page import Thumbnails, page
from fedhelp_med.data.check_sound import all_problems, balance
from fedhelp_med.data.datalist import SPLITS
from fedhelp_med.data.scan import ScanOptions, ScanResult, scan
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.loading import bundle_folder, read_federation_file

SHOWN = 8  # problems of a kind on the terminal


def scan_folder(source: Path, out: Path, options: ScanOptions) -> None:
    """Scan a source and print what was found."""
    console = Console()
    with console.status(f"Reading the headers in {source}"):
        result = scan(source, out, options)
    _print_scan(console, result)


def check_datalists(paths: Sequence[Path], json: Path | None, html: Path | None) -> None:
    """Check datalists, or a federation file's, and print what was found.

    Raises:
        FedHelpError: training would be unsound.
    """
    console = Console()
    thumbnails = Thumbnails()
    datalists = [entry for source in paths for entry in _datalists(source)]
    counts = Counter(name for name, _, _ in datalists)
    with console.status("Reading every image"):
        sites = [
            check_site(path, name if counts[name] == 1 else str(path), thumbnails if html else None, dims)
            for name, path, dims in datalists
        ]
    problems = all_problems(sites)
    _print_check(console, sites, problems)
    if json is not None:
        write_json(json, as_json(sites, problems))
    if html is not None:
        write_text(html, page(sites, problems, thumbnails))
        console.print(f"Page: {html}", highlight=False, soft_wrap=True)
    errors = [problem for problem in problems if problem.level == ERROR]
    if errors:
        raise FedHelpError(
            f"training would be unsound: {len(errors)} error(s) in the data; correct them and check again"
        )


def _datalists(source: Path) -> list[tuple[str, Path, int | None]]:
    """One datalist, called by its folder, or those that a federation file names, with the axes of its networks."""
    if source.suffix.lower() not in (".yaml", ".yml"):
        return [(source.absolute().parent.name, source, None)]
    file = read_federation_file(source)
    dims = _spatial_dims(file)
    sites = [(site.name, Path(site.data), dims) for site in file.sites]
    return [*sites, ("public", Path(file.public.data), dims)] if file.public else sites


def _spatial_dims(file: FederationFile) -> int | None:
    """The axes of space that a federation's networks take; None where its bundle does not say."""
    value = file.overrides.get("spatial_dims")
    if value is None:
        config = bundle_folder(file.bundle) / "configs" / "train.json"
        value = loads(config.read_text(encoding="utf-8")).get("spatial_dims")
    return value if value in (2, 3) else None


def _print_scan(console: Console, result: ScanResult) -> None:
    table = Table("split", "images", "patients", "labels")
    for split, items in result.splits.items():
        patients = {item.get("patient", item["image"]) for item in items}
        table.add_row(split, str(len(items)), str(len(patients)), _label_counts(items, result.classes))
    console.print(table)
    for note in result.notes:
        console.print(note, highlight=False, soft_wrap=True)
    reasons = Counter(rejection.reason for rejection in result.rejected)
    if reasons:
        console.print(
            f"Left out: {len(result.rejected)} file(s), each with its reason in {result.rejected_file}",
            highlight=False,
            soft_wrap=True,
        )
        for reason, count in reasons.most_common(SHOWN):
            console.print(f"  {count} x {reason}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Datalist: {result.datalist}", highlight=False, soft_wrap=True)


def _label_counts(items: Sequence[Any], classes: Sequence[str] | None) -> str:
    if classes is None:
        return "none"
    counts = Counter(item["label"] for item in items if isinstance(item.get("label"), int))
    if not counts:
        return f"masks of {', '.join(classes)}"
    return ", ".join(f"{counts[index]} {name}" for index, name in enumerate(classes))


def _print_check(console: Console, sites: Sequence[SiteCheck], problems: Sequence[Problem]) -> None:
    table = Table("site", "split", "images", "classes", "shapes", "spacing, mm", "orientation", "values")
    for site in sites:
        for split in SPLITS:
            images = [image for image in site.images if image.split == split]
            if images:
                counts = balance(site, split)
                table.add_row(
                    site.name,
                    split,
                    str(len(images)),
                    ", ".join(f"{index}: {count}" for index, count in sorted(counts.items())) or "none",
                    _spread([image.shape for image in images]),
                    _spread([image.spacing for image in images if set(image.spacing) != {1.0}]),
                    ", ".join(sorted({image.orientation for image in images if image.orientation})) or "-",
                    f"{min(image.range[0] for image in images):g} to {max(image.range[1] for image in images):g}",
                )
    console.print(table)
    shown: Counter[tuple[str, str, str]] = Counter()
    for problem in problems:
        kind = (problem.level, problem.site, problem.kind)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            text = f"{problem.level}: {problem.site}: {problem.path}: {problem.reason}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    for (level, name, word), count in shown.items():
        if count > SHOWN:
            console.print(
                f"{level}: {name}: {count - SHOWN} more of the kind {word!r}", highlight=False, soft_wrap=True
            )


def _spread(rows: Sequence[Sequence[float]]) -> str:
    """The range of numbers, axis by axis, such as ``64 x 64 x 8-12``."""
    if not rows:
        return "-"
    if len({len(row) for row in rows}) > 1:
        return f"{min(map(len, rows))} to {max(map(len, rows))} axes"
    columns = [(min(column), max(column)) for column in zip(*rows, strict=True)]
    return " x ".join(f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in columns)
