"""Progress on the terminal: a bar where there is one, plain lines elsewhere."""

import time
from collections.abc import Mapping
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedhelp_med.common.errors import reason_of
from fedhelp_med.federation.hosts import Outcome
from fedhelp_med.federation.workspace import Row

LINES = 5
"""Without a terminal, so many lines tell of a method's rounds."""

NAMED = 4
"""Up to so many sites are named with their losses; of more the mean is told."""


class Bar:
    """A bar with the remaining time where there is a terminal; nothing elsewhere.

    Args:
        console: where to.
        unit: what is counted, in the plural.
    """

    def __init__(self, console: Console, unit: str) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[last]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._begin, self._first, self._total = 0.0, 0, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def open(self, description: str, done: int, total: int) -> None:
        """Begin to count, with ``done`` of ``total`` behind."""
        self._begin, self._first, self._total = time.monotonic(), done, total
        self._task = self._bar.add_task(description, total=total, completed=done, last="")

    def show(self, done: int | None = None, last: str | None = None) -> None:
        """Move the bar, or change what stands behind it."""
        if self._task is not None:
            self._bar.update(self._task, completed=done)
        if self._task is not None and last is not None:
            self._bar.update(self._task, last=escape(last))

    def left(self, done: int) -> str:
        """Return the time that the rest will take, from the pace so far, as a person reads it."""
        passed = done - self._first
        if passed <= 0 or done >= self._total:
            return ""
        seconds = (time.monotonic() - self._begin) / passed * (self._total - done)
        return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, highlight=False, soft_wrap=True)


class ProgressObserver(Bar):
    """Shows rounds, the site that just finished with its training loss, and the remaining time."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "rounds")
        self._title = ""
        self._rounds = 0
        self._losses: dict[str, float] = {}

    def started(self, title: str, done: int, rounds: int, sites: int) -> None:
        """Open a bar for the method's rounds."""
        self._title, self._rounds = title, rounds
        self.open(f"{title}, {sites} sites", done, rounds)

    def site_done(self, number: int, site: str, step: str, outcome: Outcome) -> None:
        """Name the site that finished, with its loss after training, and say so aloud when it failed."""
        if isinstance(outcome, Exception):
            self.say(f"[red]{site}: {step} failed in round {number}:[/] {escape(reason_of(outcome))}")
            return
        if outcome.loss is not None and step == "train":
            self._losses[site] = outcome.loss
        loss = f", loss {outcome.loss:.3f}" if outcome.loss is not None else ""
        self.show(last=f"{site} {step}{loss}")

    def round_done(self, number: int, rows: list[Row]) -> None:
        """Advance the bar, or print a line."""
        self.show(number)
        due = number and (number == self._rounds or number % max(1, self._rounds // LINES) == 0)
        if due and not self.console.is_terminal:
            told = (f"{self._title}: round {number}/{self._rounds}", losses(self._losses), self.left(number))
            self.say("; ".join(filter(None, told)))
        self._losses = {}


def losses(found: Mapping[str, float]) -> str:
    """Return the sites' training losses as a person reads them; of many sites the mean and the highest."""
    if not found:
        return ""
    if len(found) <= NAMED:
        return f"loss {', '.join(f'{site} {loss:.3f}' for site, loss in sorted(found.items()))}"
    worst = max(found, key=lambda site: found[site])
    return f"loss {fmean(found.values()):.3f} (mean of {len(found)} sites; highest {worst} {found[worst]:.3f})"
