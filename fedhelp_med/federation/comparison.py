"""The same federation under several methods and seeds: one run folder a cell, and a finished cell is never repeated.

For one seed all methods share the splits (the datalists'), the initial weights and the order of the batches, because
every random stream derives from (seed, site, round) and none from the method.
"""

import csv
import dataclasses
import io
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import ValidationError

from fedhelp_med.common.errors import InputError, reason_of
from fedhelp_med.common.files import alone_in, remove_leftovers, write_text
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.hosts import submit
from fedhelp_med.federation.loading import Federation, method_of, naming, parse_yaml, save_federation
from fedhelp_med.federation.messages import readable
from fedhelp_med.federation.metering import metered_client
from fedhelp_med.federation.opening import check_same
from fedhelp_med.federation.runner import reference_of, run_federation
from fedhelp_med.federation.task import check_networks, task_constants
from fedhelp_med.federation.workspace import Workspace

CHANGEABLE = ("rounds", "local_epochs", "preset", "settings", "overrides", "aggregation")
"""Keys of the federation file that ``METHOD@key=value`` may change; a dot leads into the last three."""

NESTED = CHANGEABLE[3:]
HEADER = ("method", "seed", "site", "role", "model", "metric", "value")


@dataclass(frozen=True, eq=False)
class Cell:
    """One method under one seed.

    Args:
        method: its full name, ``METHOD`` or ``METHOD@key=value,...``.
        federation: the federation with the method and the seed in place.
        folder: the run folder.
    """

    method: str
    federation: Federation
    folder: Path

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return self.federation.file.seed

    @property
    def workspace(self) -> Workspace:
        """The run folder, to read from."""
        return Workspace(self.folder)

    @property
    def reference(self) -> Path | None:
        """The folder of the cell, of this comparison or not, that is the run of the reference method."""
        name = self.federation.file.reference
        return None if name is None else self.folder.parent.parent / name / self.folder.name

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"


class CellObserver(Protocol):
    """Who watches a comparison."""

    def started(self, done: int, cells: int) -> None:
        """The comparison begins, with ``done`` of ``cells`` behind it."""

    def cell_done(self, cell: Cell, reason: str | None) -> None:
        """A cell has finished, or failed for a reason."""


def method_names(text: str) -> list[str]:
    """Split ``a,b@rounds=3,preset=paper,c`` into full names: a part with ``=`` but no ``@`` goes on the one before."""
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if names and "@" in names[-1] and "=" in part and "@" not in part:
            names[-1] += f",{part}"
        elif part:
            names.append(part)
    return names


def make_cells(federation: Federation, methods: Sequence[str], seeds: int, out: Path) -> list[Cell]:
    """Return the cells of a comparison, all methods of a seed together.

    The seeds are the file's, the next, and so on. The file's ``settings`` go to its own method only, its preset to
    every method, and its ``reference`` to those whose sites may deploy the local-only network.

    Args:
        federation: what is compared on.
        methods: full names.
        seeds: how many.
        out: the comparison's folder.

    Raises:
        InputError: for an unknown or repeated method, or a change that does not fit.
    """
    if not methods:
        raise InputError("--methods: is empty; name methods with commas between them, such as local,fedavg,fedhelp")
    if repeated := sorted({name for name in methods if methods.count(name) > 1}):
        raise InputError(f"--methods: {', '.join(repeated)} stands there twice; name each method once")
    variants = [(name, _variant(federation, name)) for name in methods]
    return [
        Cell(name, _with_seed(variant, seed), out / "cells" / name / f"seed-{seed}")
        for seed in range(federation.file.seed, federation.file.seed + seeds)
        for name, variant in variants
    ]


def run_cells(cells: Sequence[Cell], out: Path, workers: int, observer: CellObserver) -> dict[Cell, str]:
    """Run every cell that is not finished, and keep ``comparison.csv`` up to date.

    Args:
        cells: made by ``make_cells``.
        out: the comparison's folder.
        workers: processes, one cell each at a time; the numbers do not depend on them.
        observer: is told of every cell.

    Returns:
        dict: the reason of every cell that failed. The others are finished.

    Raises:
        InputError: when ``out`` holds something else, another process works in it, or the bundle's networks do not fit;
            nothing is written then.
    """
    _check_folder(cells, out)
    open_cells = [cell for cell in cells if not cell.workspace.finished]
    if open_cells:
        with naming(open_cells[0].federation.source):
            for federation in {cell.method: cell.federation for cell in open_cells}.values():
                check_networks(federation, task_constants(federation))
    with alone_in(out):
        observer.started(len(cells) - len(open_cells), len(cells))
        remove_leftovers(out)
        return _run_open(cells, open_cells, out, workers, observer)


def _run_open(
    cells: Sequence[Cell], open_cells: Sequence[Cell], out: Path, workers: int, observer: CellObserver
) -> dict[Cell, str]:
    failed: dict[Cell, str] = {}
    write_comparison(cells, out)
    order = sorted(open_cells, key=lambda cell: (cell.seed, cell.reference is not None))
    for cell, reason in _outcomes(order, workers):
        write_comparison(cells, out)
        if reason is not None:
            failed[cell] = reason
        observer.cell_done(cell, reason)
    return failed


def write_comparison(cells: Sequence[Cell], out: Path) -> None:
    """Write ``comparison.csv``: the testing rows of the finished cells, sorted."""
    rows = sorted(
        (cell.method, cell.seed, row.site, row.role, row.model, row.metric, f"{row.value:.6f}")
        for cell in cells
        for row in cell.workspace.final()
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows)
    write_text(out / "comparison.csv", text.getvalue())


def _variant(federation: Federation, name: str) -> Federation:
    """Return the federation under the method of a full name."""
    method, _, changes = name.partition("@")
    if not re.fullmatch(r"[\w@=.,+#-]+", name):
        raise InputError(
            f"--methods: {name!r} is not a name for a folder; use METHOD or METHOD@key=value,... without spaces"
        )
    file = federation.file
    content = file.model_dump()
    content |= {"method": method, "settings": file.settings if method == file.method else {}}
    content["runtime"]["workers"] = 1
    for change in filter(None, changes.split(",")):
        _change(content, name, change)
    try:
        file = FederationFile.model_validate(content)
        built = method_of(file)
    except ValidationError as error:
        raise InputError(f"--methods: {name}: {readable(error, FederationFile, content)}") from None
    except InputError as error:
        raise InputError(f"--methods: {name}: {error}") from None
    # All settings are written down, so that a cell made with other values of the preset is not taken for this one.
    file = file.model_copy(
        update={
            "settings": built.settings.model_dump(mode="json"),
            "reference": file.reference if built.chooses else None,
        }
    )
    return dataclasses.replace(federation, file=file, method=built)


def _change(content: dict[str, Any], name: str, change: str) -> None:
    key, equals, value = change.partition("=")
    section, dot, entry = key.partition(".")
    if not equals or section not in CHANGEABLE or bool(dot) != (section in NESTED):
        raise InputError(
            f"--methods: {name}: {change!r} is not a change; write key=value with one of the keys "
            + ", ".join(f"{known}.NAME" if known in NESTED else known for known in CHANGEABLE)
        )
    try:
        found = parse_yaml(value)
    except yaml.YAMLError:
        raise InputError(
            f"--methods: {name}: {value!r} is not a value; write a number, a word, true or false"
        ) from None
    content[section] = {**content[section], entry: found} if dot else found


def _with_seed(federation: Federation, seed: int) -> Federation:
    return federation.with_file(federation.file.model_copy(update={"seed": seed}))


def _check_folder(cells: Sequence[Cell], out: Path) -> None:
    """Check that ``out`` is new, empty or a comparison, and that its cells are those that are asked for."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir() and not (out / "comparison.csv").is_file():
        raise InputError(f"{out}: is not empty and not a comparison; choose another --out")
    for cell in cells:
        earlier = _earlier(cell.folder)
        if earlier is not None and cell.workspace.trained:
            check_same(cell.workspace, earlier, cell.federation)


def _earlier(folder: Path) -> FederationFile | None:
    """Return the file from which a cell was begun, None for a new one."""
    path = Workspace(folder).federation_file
    if not path.is_file():
        return None
    try:
        return FederationFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError):
        raise InputError(f"{path}: is damaged; remove {folder} to run this cell again") from None


def _outcomes(cells: Sequence[Cell], workers: int) -> Iterator[tuple[Cell, str | None]]:
    """Run cells; yield each with the reason of its failure, None where it finished."""
    workers = min(workers, len(cells))
    if workers <= 1:
        yield from ((cell, _run(cell)) for cell in cells)
        return
    waiting = list(cells)
    idle = set(range(workers))
    pools: dict[int, ProcessPoolExecutor] = {}
    running: dict[Future[str | None], tuple[int, Cell]] = {}
    try:
        while waiting or running:
            unfinished = {cell.folder for cell in (*waiting, *(cell for _, cell in running.values()))}
            for cell in [cell for cell in waiting if cell.reference not in unfinished][: len(idle)]:
                place = idle.pop()
                running[submit(pools, place, _run, cell)] = place, cell
                waiting.remove(cell)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, cell = running.pop(future)
                idle.add(place)
                reason: str | None
                try:
                    reason = future.result()
                except BrokenProcessPool:  # for want of memory perhaps
                    reason = f"its process ended; try fewer --workers than {workers}"
                    pools.pop(place).shutdown(wait=False)
                yield cell, reason
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def _run(cell: Cell) -> str | None:
    """Run a cell to its end; return the reason when it fails, which then stands in its ``events.jsonl`` as well."""
    begin = time.perf_counter()
    try:
        _borrow_reference(cell)
        run_federation(cell.federation, cell.folder, resume=True, create=metered_client)
    except Exception as error:
        reason = reason_of(error)
        if cell.workspace.federation_file.is_file():
            _record(cell, "cell_failed", error=reason, traceback=traceback.format_exc())
        return reason
    _record(cell, "cell_finished", seconds=round(time.perf_counter() - begin, 3))
    if cell.workspace.finished:
        return None
    failed = cell.workspace.untested
    return f"testing failed at {'; '.join(f'{site} ({why})' for site, why in failed.items())}"


def _record(cell: Cell, event: str, **details: Any) -> None:
    with suppress(OSError):  # a full disk, which the cell's own failure tells of
        cell.workspace.record(event, **details)


def _borrow_reference(cell: Cell) -> None:
    """Use the finished cell of the reference method, where there is one, instead of training the same again."""
    link = cell.workspace.reference.root
    if cell.reference is None or link.is_dir():
        return
    reference = reference_of(cell.federation)
    if not Workspace(cell.reference).complete or _earlier(cell.reference) != reference.file:
        return
    if not cell.workspace.federation_file.is_file():
        save_federation(cell.federation, cell.workspace.federation_file)
    link.unlink(missing_ok=True)
    with suppress(OSError):  # a file system without links: then it is trained again
        link.symlink_to(Path("..", "..", cell.reference.parent.name, cell.reference.name), target_is_directory=True)
