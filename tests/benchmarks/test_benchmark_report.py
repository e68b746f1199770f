"""How large a large federation's report is, and how long Chromium takes to open it."""

import time

import pytest
from browser import Browser, need_browser
from report_folders import make_run

from fedhelp_med.cli.report import write_reports

pytestmark = [pytest.mark.benchmark, pytest.mark.service]
MEGABYTES = 5


def test_fifty_sites_and_a_hundred_rounds(tmp_path):
    need_browser()
    begin = time.perf_counter()
    (page,) = write_reports(make_run(tmp_path / "run", small=40, large=10, rounds=100, studies=500))
    wrote = time.perf_counter() - begin
    with Browser(tmp_path / "profile") as browser:
        opened = browser.open(page)
        assert browser.run("document.querySelectorAll('figure.chart').length") >= 50
        assert browser.complaints == []
    size = page.stat().st_size / 1e6
    print(f"\nreport of 50 sites x 100 rounds: {size:.2f} MB, written in {wrote:.1f} s, opened in {opened:.2f} s")
    assert size < MEGABYTES
