"""The reports in a headless Chromium: what a person sees, hears from a screen reader and prints."""

import csv
from statistics import fmean

import pytest
import yaml
from browser import CACHE, Browser, need_browser
from conftest import SMALL, write_site

from fedhelp_med.cli.compare import compare_methods
from fedhelp_med.cli.report import write_reports
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation

pytestmark = pytest.mark.service
SCREENSHOTS = CACHE / "browser"
PHONE = 390


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A federation file of two tiny small sites and a large one."""
    need_browser()
    folder = tmp_path_factory.mktemp("federation")
    roles = {"clinic-a": "small", "clinic-b": "small", "hospital-a": "large"}
    for index, name in enumerate(roles):
        write_site(folder / name, training=8, seed=index)
    sites = [{"name": name, "role": role, "data": f"{name}/datalist.json"} for name, role in roles.items()]
    content = {"name": "tiny", "rounds": 2, "preset": "paper", "overrides": SMALL, "reference": "local", "sites": sites}
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))
    return folder / "federation.yaml"


@pytest.fixture(scope="module")
def run(file):
    """The folder of a run with its report."""
    workspace = run_federation(load_federation(file), file.parent / "run")
    write_reports(workspace.root)
    return workspace.root


@pytest.fixture(scope="module")
def comparison(file):
    """The folder of a comparison with its report."""
    out = file.parent / "comparison"
    compare_methods(file, "local,fedhelp", seeds=2, out=out, workers=1, metric=None, split="testing")
    return out


def rows(path, **wanted):
    with path.open() as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def told(browser, name):
    return browser.run(f"document.querySelector('[data-value=\"{name}\"]').firstChild.textContent.trim()")


def charts(browser):
    """Return the width of every chart's drawing by id."""
    return browser.run(
        "Object.fromEntries([...document.querySelectorAll('figure.chart')].map(figure => ["
        "figure.id, figure.querySelector('svg').getBoundingClientRect().width]))"
    )


def sound(browser, page):
    """Nothing was asked of the network or complained of, and no rule of accessibility is broken seriously."""
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.complaints == []
    assert [found for found in browser.violations() if found[0] in ("serious", "critical")] == []


def test_run(run, tmp_path):
    page = run / "report.html"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        values = {
            (row["site"], row["model"]): float(row["value"])
            for row in rows(run / "metrics.csv", split="testing", metric="auc")
        }
        small = fmean(values[site, "deployed"] - values[site, "local"] for site in ("clinic-a", "clinic-b"))
        large = values["hospital-a", "deployed"] - values["hospital-a", "local"]
        assert told(browser, "gain-small") == f"{small:+.3f}" and told(browser, "gain-large") == f"{large:+.3f}"
        assert f"{abs(small):.3f}" in browser.run("document.getElementById('headline').textContent")
        cells = browser.run(
            "[...document.querySelectorAll('#gains ~ div tbody tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )
        deployed = {cell[0]: cell[3] for cell in cells}
        assert deployed == {site: f"{v:.3f}" for (site, model), v in values.items() if model == "deployed"}
        wanted = {"gains", "disparity", "flow-forward", "flow-ranking", "roc-small-1", "roc-large-1"}
        wanted |= {f"curves-{site}" for site in ("clinic-a", "clinic-b", "hospital-a")}
        drawn = charts(browser)
        assert set(drawn) == {f"chart-{name}" for name in wanted} and min(drawn.values()) > 100
        pictures = browser.run("[...document.images].map(image => [image.naturalWidth, image.alt.length])")
        assert pictures and all(width > 100 and alt > 20 for width, alt in pictures)
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert browser.run("document.activeElement.className") == "skip"
        sound(browser, page)
        browser.screenshot(SCREENSHOTS / "run.png")


def test_comparison(comparison, tmp_path):
    page = comparison / "report.html"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        for role in ("small", "large"):
            found = rows(comparison / "comparison.csv", method="fedhelp", role=role, model="deployed", metric="auc")
            assert told(browser, f"mean-{role}") == f"{fmean(float(row['value']) for row in found):.3f}"
        wanted = ("results-small", "results-large", "gains", "gaps", "curves-small", "curves-large")
        drawn = charts(browser)
        assert set(drawn) == {f"chart-{name}" for name in wanted} and min(drawn.values()) > 100
        sound(browser, page)
        browser.screenshot(SCREENSHOTS / "comparison.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_on_a_phone(kind, dark, request, tmp_path):
    page = request.getfixturevalue(kind) / "report.html"
    with Browser(tmp_path / "profile", width=PHONE, height=800, dark=dark) as browser:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") <= PHONE
        assert max(charts(browser).values()) <= PHONE
        paper = browser.run("getComputedStyle(document.documentElement).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark
        sound(browser, page)
        browser.screenshot(SCREENSHOTS / f"{kind}-phone{'-dark' * dark}.png")
