"""Progress on the terminal: a bar where there is one, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedhelp_med.federation.hosts import Outcome
from fedhelp_med.federation.workspace import Row


class ProgressObserver:
    """Shows rounds, the site that just finished and the remaining time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[last]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._rounds = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, title: str, done: int, rounds: int, sites: int) -> None:
        """Open a bar for the method's rounds."""
        self._title, self._rounds = title, rounds
        self._task = self._bar.add_task(f"{title}, {sites} sites", total=rounds, completed=done, last="")

    def site_done(self, number: int, site: str, step: str, outcome: Outcome) -> None:
        """Name the site that finished, and say so aloud when it failed."""
        if isinstance(outcome, Exception):
            self.console.print(f"[red]{site}: {step} failed in round {number}:[/] {outcome}", highlight=False)
        elif self._task is not None:
            self._bar.update(self._task, last=f"{site} {step}")

    def round_done(self, number: int, rows: list[Row]) -> None:
        """Advance the bar, or print a line."""
        if self.console.is_terminal and self._task is not None:
            self._bar.update(self._task, completed=number)
        elif number and (number == self._rounds or number % max(1, self._rounds // 5) == 0):
            self.console.print(f"{self._title}: round {number}/{self._rounds}", highlight=False)
