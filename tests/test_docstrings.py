"""The examples in the package's docstrings: each is run, in a folder with what they read."""

import doctest
import importlib
from pathlib import Path

import pytest
from dicom_samples import write_series

import fedhelp_med

ROOT = Path(fedhelp_med.__file__).parent
SOURCES = [path for room in sorted(ROOT.iterdir()) if room.name != "bundles" for path in sorted(room.rglob("*.py"))]
WITH_EXAMPLES = [path for path in SOURCES if ">>>" in path.read_text(encoding="utf-8")]


def test_examples_are_found() -> None:
    rooms = {path.relative_to(ROOT).parts[0] for path in WITH_EXAMPLES}
    assert {"losses", "networks", "foundation", "transforms"} <= rooms


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_give_what_they_say(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "+SKIP" not in path.read_text(encoding="utf-8")
    write_series(tmp_path / "examination" / "series-folder")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(("fedhelp_med", *path.relative_to(ROOT).with_suffix("").parts)))
    result = doctest.testmod(module)
    assert result.attempted and not result.failed  # pytest shows what doctest printed
