"""The table that a run ends with."""

import io
import math

import pytest
from rich.console import Console

from fedhelp_med.federation.workspace import Row
from fedhelp_med.report.summary import summarise
from fedhelp_med.report.table import print_summary


def row(site, role, model, value, metric="auc", split="testing"):
    return Row(3, site, role, model, split, metric, value)


ROWS = [
    row("hospital", "large", "local", 0.80),
    row("hospital", "large", "large", 0.84),
    row("hospital", "large", "deployed", 0.85),
    row("clinic-b", "small", "local", 0.70),
    row("clinic-b", "small", "deployed", 0.68),
    row("clinic-a", "small", "local", 0.60),
    row("clinic-a", "small", "deployed", 0.80),
    row("clinic-a", "small", "deployed", 0.99, split="validation"),
    row("clinic-a", "small", "deployed", 0.10, metric="accuracy"),
]


def test_gains_and_gaps_by_hand():
    summary = summarise(ROWS)
    assert summary.metric == "auc"
    assert [site.site for site in summary.sites] == ["clinic-a", "clinic-b", "hospital"]
    assert [site.gain for site in summary.sites] == pytest.approx([0.2, -0.02, 0.05])
    assert summary.mean_gain("small") == pytest.approx(0.09)
    assert summary.gap("local") == pytest.approx(0.80 - 0.65)
    assert summary.gap("deployed") == pytest.approx(0.85 - 0.74)


def test_without_a_reference_there_is_no_gain():
    summary = summarise([r for r in ROWS if r.model != "local"])
    assert summary.gap("local") is None and summary.mean_gain("small") is None
    assert all(site.gain is None for site in summary.sites)


def test_a_gap_with_an_undefined_value_is_undefined():
    rows = [*ROWS[:-3], row("clinic-a", "small", "deployed", math.nan)]
    assert summarise(rows).gap("deployed") is None


def test_a_site_whose_result_is_undefined_does_not_hide_the_gain_of_the_others():
    summary = summarise([*ROWS[:-3], row("clinic-a", "small", "deployed", math.nan)])
    assert summary.sites[0].gain is None
    assert summary.mean_gain("small") == pytest.approx(-0.02)


def test_the_printed_table_shows_every_number():
    text = io.StringIO()
    print_summary(Console(file=text, width=120), summarise(ROWS), "fedhelp", "demo")
    shown = text.getvalue()
    numbers = ("clinic-a", "0.600", "0.800", "+0.200", "-0.020", "0.840")
    for piece in (*numbers, "small sites +0.090", "+0.150 before, +0.110 after"):
        assert piece in shown, piece
