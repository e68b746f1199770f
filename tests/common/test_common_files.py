"""Files and folders appear whole or not at all: after exceptions, and after SIGKILL at any file operation."""

import errno
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import (
    alone_in,
    check_empty,
    remove_leftovers,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)

WORKER = Path(__file__).with_name("common_crash_worker.py")


class Stopped(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "results" / "metrics.csv"


# Files


def test_a_file_appears_when_the_block_ends(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_the_temporary_file_lies_beside_its_target_under_a_hidden_name_with_the_same_suffix(target: Path) -> None:
    with replacing(target) as temporary:  # beside: a rename works within one file system only
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".csv"


def test_a_written_file_can_be_read_by_others(target: Path) -> None:
    write_text(target, "text")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, Stopped])
def test_an_exception_leaves_the_earlier_file_and_nothing_else(target: Path, error: type[BaseException]) -> None:
    write_text(target, "old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_an_exception_leaves_nothing_where_nothing_was(target: Path) -> None:
    with pytest.raises(ValueError), replacing(target) as temporary:
        temporary.write_text("half of the n")
        raise ValueError
    assert list(target.parent.iterdir()) == []


def test_json_is_readable_utf8_and_ends_with_a_newline(target: Path) -> None:
    write_json(target, {"site": "Żory", "rounds": [1, 2]})
    content = target.read_bytes().decode()
    assert "Żory" in content
    assert content.endswith("}\n")
    assert json.loads(content) == {"site": "Żory", "rounds": [1, 2]}


def test_what_json_cannot_hold_leaves_the_earlier_file(target: Path) -> None:
    write_json(target, {"round": 1})
    with pytest.raises(TypeError):
        write_json(target, {"round": object()})
    assert json.loads(target.read_text()) == {"round": 1}


# Folders


def fill(folder: Path, text: str) -> None:
    (folder / "weights").mkdir()
    (folder / "meta.json").write_text(text)
    (folder / "weights" / "model").write_text(text)


def test_a_folder_appears_when_the_block_ends_and_replaces_the_earlier_one_entirely(target: Path) -> None:
    with replacing_folder(target) as temporary:
        fill(temporary, "old")
        (temporary / "only-old").touch()
        assert not target.exists()
    with replacing_folder(target) as temporary:
        fill(temporary, "new")
        assert (target / "meta.json").read_text() == "old"
    assert {file.relative_to(target).as_posix(): file.read_text() for file in target.rglob("*") if file.is_file()} == {
        "meta.json": "new",
        "weights/model": "new",
    }
    assert list(target.parent.iterdir()) == [target]


def test_a_written_folder_can_be_read_by_others(target: Path) -> None:
    with replacing_folder(target):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, Stopped])
def test_an_exception_leaves_the_earlier_folder_and_nothing_else(target: Path, error: type[BaseException]) -> None:
    with replacing_folder(target) as temporary:
        fill(temporary, "old")
    with pytest.raises(error), replacing_folder(target) as temporary:
        (temporary / "meta.json").write_text("new")
        raise error
    assert (target / "meta.json").read_text() == (target / "weights" / "model").read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


# Killed


def found(path: Path) -> str | None:
    """Return ``old`` or ``new`` when ``path`` is entirely that, None when absent; anything else is a torn result."""
    if not path.exists():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    assert len(files) == (3 if path.is_dir() else 1), f"some files are missing in {path}: {files}"
    (content,) = {file.read_text() for file in files}
    assert content in ("old old", "new new")
    return content[:3]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_killed_at_any_file_operation_leaves_the_old_or_the_new_whole(tmp_path: Path, kind: str) -> None:
    subprocess.run([sys.executable, str(WORKER), kind, str(tmp_path)], check=True, timeout=60)
    runs = sorted(tmp_path.iterdir(), key=lambda run: int(run.name))
    outcomes = [found(run / "result") for run in runs]
    assert outcomes[0] == "old"  # killed before anything
    assert outcomes[-1] == "new"  # never killed
    assert len(outcomes) > 5
    order = {"old": 0, None: 1, "new": 2}
    assert outcomes == sorted(outcomes, key=order.__getitem__)
    assert outcomes.count(None) == (1 if kind == "folder" else 0)  # between its two renames only
    for run in runs:  # what a killed process leaves is hidden, so that no reader takes it for a result
        assert all(path.name == "result" or path.name.startswith(".") for path in run.iterdir())
    assert list(runs[-1].iterdir()) == [runs[-1] / "result"]
    for run in runs:  # and can be told from a user's own hidden files
        (run / ".gitignore").write_text("*")
        remove_leftovers(run)
        assert {path.name for path in run.iterdir()} <= {"result", ".gitignore"}
        assert (run / ".gitignore").exists()
        (run / ".gitignore").unlink()
    for run in runs:  # and does not hinder the repeated step
        with (replacing if kind == "file" else replacing_folder)(run / "result") as temporary:
            (temporary if kind == "file" else temporary / "meta.json").write_text("repeated")
        assert (run / "result" if kind == "file" else run / "result" / "meta.json").read_text() == "repeated"


def test_what_killed_writers_left_is_removed_at_any_depth(tmp_path: Path) -> None:
    deep = tmp_path / "sites" / "clinic" / "studies" / "validation"
    unfinished = deep / ".round.1.partial"
    unfinished.mkdir(parents=True)
    kept = [deep / "deployed.csv", deep / ".partially-mine", tmp_path / "partial.csv"]
    left = [unfinished / ".inner.2.partial.csv", deep / ".deployed.csv.3.partial.csv", tmp_path / ".run.4.partial.json"]
    for file in (*kept, *left):
        file.write_text("text")
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert not unfinished.exists()
    remove_leftovers(tmp_path / "nowhere")


WAITING = """
import sys
from pathlib import Path
from fedhelp_med.common.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_works_in_a_folder_and_its_death_lets_the_next_in(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", WAITING, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match="run: another process is working in it"), alone_in(folder):
            pass
        with alone_in(folder.parent):  # the folders around it are free
            pass
        other.kill()
        other.wait()
        with alone_in(folder):
            assert not list(folder.iterdir())


def test_a_file_is_no_folder_to_work_in(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="run: is a file; choose another folder"), alone_in(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with alone_in(tmp_path):
        pass


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path: Path) -> None:
    write_json(
        tmp_path / "x.json", {"a": [float("nan"), 1.5, (float("inf"),)], "b": {"c": "NaN", "d": True, "e": None}}
    )
    content = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert content == {"a": [None, 1.5, [None]], "b": {"c": "NaN", "d": True, "e": None}}


def test_results_go_into_a_new_or_empty_folder(tmp_path: Path) -> None:
    check_empty(tmp_path / "new")
    (tmp_path / "full" / "empty").mkdir(parents=True)
    check_empty(tmp_path / "full" / "empty")
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(InputError, match=f"{name}: exists and is not empty; choose another --out"):
            check_empty(tmp_path / name)
