"""``fedhelp report``, and how other commands end with a report."""

from pathlib import Path

from rich.console import Console

from fedhelp_med.common.errors import InputError


def report_again(folder: Path, *, examples: bool) -> None:
    """Write the report of a finished run, or of a comparison, and print its path."""
    from fedhelp_med.cli.run import quieten

    quieten()
    for path in write_reports(folder, examples=examples):
        say(Console(), f"Report: {path}")


def write_reports(folder: Path, *, examples: bool = True) -> list[Path]:
    """Write the report of what is in a folder.

    Raises:
        InputError: when there is neither a finished run nor a comparison, or the extra ``report`` is missing.
    """
    if (folder / "federation.yaml").is_file():
        return [_write_run(folder, examples)]
    if (folder / "comparison.csv").is_file():
        from fedhelp_med.report.comparison_page import write_comparison_pages

        return write_comparison_pages(folder)
    raise InputError(f"{folder}: is neither a run nor a comparison; name what `fedhelp run` or `compare` wrote")


def _write_run(folder: Path, examples: bool) -> Path:
    from fedhelp_med.report.examples import ELSEWHERE, LEFT_OUT, find_examples
    from fedhelp_med.report.gather import gather_run
    from fedhelp_med.report.page import write_run_page

    facts = gather_run(folder)
    return write_run_page(facts, find_examples(facts) if examples else [], ELSEWHERE if examples else LEFT_OUT)


def end_with_report(console: Console, folder: Path) -> None:
    """Write the report of work that succeeded. Without one it has succeeded nevertheless, and the reason is said."""
    try:
        for path in write_reports(folder):
            say(console, f"Report: {path}")
    except InputError as error:
        say(console, f"No report: {error}")
    except Exception as error:
        say(console, f"No report ({type(error).__name__}: {error}); `fedhelp report {folder}` tries again")


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
