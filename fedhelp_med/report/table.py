"""The table that a run ends with."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedhelp_med.report.summary import Summary


def print_summary(console: Console, summary: Summary, method: str, title: str) -> None:
    """Print who gained what, and the gap between the roles before and after."""
    with_reference = any(site.local is not None for site in summary.sites)
    table = Table(title=f"{title}: {summary.metric} on each site's own test studies", title_justify="left")
    table.add_column("site")
    table.add_column("role")
    if with_reference:
        table.add_column("local-only", justify="right")
    table.add_column(f"{method} deployed", justify="right")
    if with_reference:
        table.add_column("gain", justify="right")
    table.add_column("large network", justify="right")
    previous = None
    for site in summary.sites:
        if previous not in (None, site.role):
            table.add_section()
        previous = site.role
        cells: list[str | Text] = [site.site, site.role]
        if with_reference:
            cells.append(_number(site.local))
        cells.append(_number(site.deployed))
        if with_reference:
            cells.append(_signed(site.gain))
        cells.append(_number(site.large))
        table.add_row(*cells)
    console.print(table)
    if with_reference:
        gains = [(role, summary.mean_gain(role)) for role in ("small", "large")]
        told = ", ".join(f"{role} sites {gain:+.3f}" for role, gain in gains if gain is not None)
        if told:
            console.print(f"Mean gain over local-only: {told}.")
    before, after = summary.gap("local"), summary.gap("deployed")
    if after is not None:
        was = "" if before is None else f"{before:+.3f} before, "
        console.print(f"Gap between the roles (large minus small): {was}{after:+.3f} after.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> Text:
    if value is None:
        return Text("")
    return Text(f"{value:+.3f}", style="green" if value > 0 else "red" if value < 0 else "")
