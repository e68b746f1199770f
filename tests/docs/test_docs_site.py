"""The documentation builds without a warning: no page outside the contents, no dead link, no broken docstring."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.integration
def test_the_pages_and_the_reference_build_without_a_warning(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "d", DOCS, tmp_path / "html"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert build.returncode == 0, build.stderr
    for page in DOCS.glob("*.md"):
        assert (tmp_path / "html" / f"{page.stem}.html").is_file()
    assert "ForwardDistillationLoss" in (tmp_path / "html" / "reference.html").read_text("utf-8")
