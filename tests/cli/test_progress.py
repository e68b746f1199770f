"""Progress: a bar on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from fedhelp_med.cli import progress
from fedhelp_med.cli.progress import Bar, ProgressObserver, losses
from fedhelp_med.federation.site_messages import SiteReport


def watch(console, rounds=10, sites=("clinic-a", "hospital-a")):
    with ProgressObserver(console) as observer:
        observer.started("fedhelp", 0, rounds, len(sites))
        for number in range(1, rounds + 1):
            for place, site in enumerate(sites):
                observer.site_done(number, site, "train", SiteReport(loss=1 / number + place))
                observer.site_done(number, site, "evaluate", SiteReport())
            observer.round_done(number, [])
        observer.site_done(rounds, sites[0], "test", RuntimeError("no [bold] memory"))


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by 3 s whenever somebody looks."""
    now = iter(range(0, 3000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))


def test_plain_lines_tell_round_sites_losses_and_time(clock):
    text = io.StringIO()
    watch(Console(file=text, width=60))
    lines = text.getvalue().splitlines()
    assert len(lines) == 6 and not any("\x1b" in line for line in lines)
    assert lines[0] == "fedhelp: round 2/10; loss clinic-a 0.500, hospital-a 1.500; about 12 s left"
    assert lines[4] == "fedhelp: round 10/10; loss clinic-a 0.100, hospital-a 1.100"
    assert lines[5] == "clinic-a: test failed in round 10: RuntimeError: no [bold] memory"


def test_a_terminal_has_a_bar_with_round_site_and_loss():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with ProgressObserver(console) as observer:
        observer.started("fedhelp", 0, 4, 2)
        observer.site_done(1, "clinic-a", "train", SiteReport(loss=0.1234))
        observer.round_done(1, [])
        observer._bar.refresh()
    shown = text.getvalue()
    assert "fedhelp, 2 sites" in shown and "1/4" in shown and "rounds" in shown
    assert "clinic-a train, loss 0.123" in shown
    assert "fedhelp: round" not in shown  # no plain line beside the bar


def test_of_many_sites_the_mean_and_the_highest_are_told():
    assert losses({}) == ""
    found = {f"site-{index}": index / 10 for index in range(6)}
    assert losses(found) == "loss 0.250 (mean of 6 sites; highest site-5 0.500)"


def test_time_left_counts_from_where_a_run_went_on(clock):
    bar = Bar(Console(file=io.StringIO()), "cells")
    bar.open("comparison", 6, 10)
    assert bar.left(6) == ""
    assert bar.left(7) == "about 9 s left"  # 3 s for one, three to go
    assert bar.left(10) == ""
    bar.open("comparison", 0, 100)
    assert bar.left(1) == "about 5 min left"
