"""The run folder: what is committed is whole, at whatever point its writer is killed."""

import os
from pathlib import Path

import pytest

from fedhelp_med.federation.workspace import Row, Workspace

ROUND = Row(0, "clinic", "small", "surrogate", "validation", "auc", 0.75)
TESTED = Row(1, "clinic", "small", "deployed", "testing", "auc", 0.625)
LOCAL = Row(1, "clinic", "small", "local", "testing", "auc", 0.5)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "run")
    workspace.reference.commit(0, [], {})
    workspace.reference.finish([LOCAL])
    workspace.commit(0, [ROUND], {})
    return workspace


def test_metrics_are_rounds_then_testing_then_the_reference(workspace):
    assert workspace.rows() == workspace.round_rows(0) == [ROUND]
    assert workspace.round_rows(1) == []
    workspace.finish([TESTED])
    assert workspace.rows() == [ROUND, TESTED, LOCAL]
    assert workspace.final() == [TESTED]
    assert workspace.metrics_file.read_text().splitlines() == [
        "round,site,role,model,split,metric,value",
        "0,clinic,small,surrogate,validation,auc,0.750000",
        "1,clinic,small,deployed,testing,auc,0.625000",
        "1,clinic,small,local,testing,auc,0.500000",
    ]


def test_a_site_that_fails_for_some_rounds_keeps_the_last_states_that_it_has(workspace):
    for number in range(1, 7):
        for site in ("clinic", "hospital"):
            if site == "clinic" or number < 4:
                (workspace.site(site) / f"round-{number:04d}").mkdir(parents=True)
        workspace.commit(number, [], {})
    kept = {site: sorted(path.name for path in workspace.site(site).iterdir()) for site in ("clinic", "hospital")}
    assert kept == {"clinic": ["round-0005", "round-0006"], "hospital": ["round-0002", "round-0003"]}


@pytest.mark.parametrize("renames", range(3))
def test_a_run_that_counts_as_complete_has_all_its_metrics(workspace, renames, monkeypatch):
    replace, done = os.replace, []

    def replace_until_killed(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise Killed
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_until_killed)
    if renames < 2:
        with pytest.raises(Killed):
            workspace.finish([TESTED])
    else:
        workspace.finish([TESTED])
    assert workspace.complete == (renames == 2)
    assert (",testing," in workspace.metrics_file.read_text()) == (renames > 0)

    monkeypatch.undo()
    workspace.discard_unfinished()
    workspace.finish([TESTED])
    assert workspace.metrics_file.read_text().count(",testing,") == 2
    assert not list(workspace.root.rglob(".*"))
