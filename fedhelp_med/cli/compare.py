"""``fedhelp compare``."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedhelp_med.cli.progress import Bar
from fedhelp_med.cli.report import end_with_report
from fedhelp_med.cli.run import quieten
from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.files import write_text
from fedhelp_med.federation.comparison import Cell, make_cells, method_names, run_cells
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.report.comparison import read_results
from fedhelp_med.report.comparison_facts import save_facts
from fedhelp_med.report.comparison_sheets import comparison_sheets, disparity_csv, methods_csv, networks_sheet


def compare_methods(
    path: Path, methods: str, *, seeds: int, out: Path, workers: int | None, metric: str | None, split: str
) -> None:
    """Run the cells that are missing, then print the tables; the same command goes on where it was stopped.

    Raises:
        InputError: a wrong federation file, method or metric, or another process works in ``out``.
        FedHelpError: cells failed, or the command was stopped.
    """
    console = Console()
    quieten()
    federation = load_federation(path)
    cells = make_cells(federation, method_names(methods), seeds, out)
    if metric is not None and any(cell.workspace.complete for cell in cells):
        read_results(cells, metric, draws=1, split=split)  # a metric that was never measured is refused before the work
    if workers is None:
        workers = max(1, (os.cpu_count() or 1) // federation.file.runtime.threads)
    begin = time.perf_counter()
    try:
        with _CellProgress(console) as observer:
            failed = run_cells(cells, out, workers, observer)
    except KeyboardInterrupt:
        raise FedHelpError("stopped; the same command goes on, and no finished cell is repeated") from None
    if len(failed) < len(cells):
        results = read_results(cells, metric, split=split)
        sheets = comparison_sheets(results, cells)
        for sheet in sheets:
            sheet.print(console)
        if split == "testing":
            sheets.append(networks_sheet(cells, results.metric))
        suffix = "" if split == "testing" else f"-{split}"
        write_text(out / f"comparison{suffix}.md", "\n".join(sheet.markdown() for sheet in sheets))
        write_text(out / f"disparity{suffix}.csv", disparity_csv(results, cells))
        write_text(out / f"methods{suffix}.csv", methods_csv(results))
        save_facts(results, cells, sheets, out)
    if others := _left_out(cells, out):
        console.print(f"{others} finished cells in {out} are of other methods or seeds: they are not in the tables.")
    console.print(f"[dim]{time.perf_counter() - begin:.0f} s.[/]")
    console.print(f"Results: {out / 'comparison.csv'}", highlight=False, soft_wrap=True)
    if len(failed) < len(cells):
        end_with_report(console, out)
    if failed:
        raise FedHelpError(
            f"{len(failed)} of {len(cells)} cells failed: {'; '.join(map(str, failed))}. "
            "The same command tries them again"
        )


def _left_out(cells: Sequence[Cell], out: Path) -> int:
    """Count the finished cells in the folder that the command did not name."""
    named = {cell.folder for cell in cells}
    return sum(file.parent not in named for file in out.glob("cells/*/*/testing.json"))


class _CellProgress(Bar):
    """A bar of cells where there is a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "cells")
        self._done = self._cells = 0

    def started(self, done: int, cells: int) -> None:
        """Open the bar."""
        self._done, self._cells = done, cells
        self.open("comparison", done, cells)
        if done:
            self.say(f"{done} of {cells} cells are finished already.")

    def cell_done(self, cell: Cell, reason: str | None) -> None:
        """Advance the bar, or print a line; a failure is always printed."""
        self._done += 1
        self.show(self._done, str(cell))
        if reason is not None:
            self.say(f"[red]{cell}: failed:[/] {escape(reason)}")
        elif missing := _untested(cell):
            self.say(f"[red]{cell}: without {', '.join(missing)}, which failed;[/] see {cell.folder}/events.jsonl")
        elif not self.console.is_terminal:
            self.say("; ".join(filter(None, (f"{self._done}/{self._cells}: {cell}", self.left(self._done)))))


def _untested(cell: Cell) -> list[str]:
    tested = {row.site for row in cell.workspace.final()}
    sites = cell.federation.sites
    return [s.name for s in sites if cell.federation.datalists[s.name].samples("testing") and s.name not in tested]
