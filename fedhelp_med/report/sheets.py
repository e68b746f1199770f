"""Tables that are printed on a terminal and written as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

UNBROKEN = 15
"""Words of up to so many letters are not broken on a narrow terminal."""


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Args:
        title: what it shows.
        columns: the header; line breaks are for the terminal.
        rows: as many cells each as there are columns.
        notes: what a reader has to know, a line each.
        text: the columns of text, which may wrap; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text: tuple[int, ...] = (0,)

    def print(self, console: Console) -> None:
        """Print it with its notes."""
        table = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for index, column in enumerate(self.columns):
            if index in self.text:
                widest = max((len(row[index]) for row in self.rows), default=0)
                table.add_column(column, min_width=min(widest, UNBROKEN), overflow="fold")
            else:
                table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(f"[dim]{note}[/]", highlight=False)

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"### {self.title}", ""]
        lines.append(_line([column.replace("-\n", "").replace("\n", " ") for column in self.columns]))
        lines.append(_line(["---" if index in self.text else "---:" for index in range(len(self.columns))]))
        lines += [_line(row) for row in self.rows]
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
