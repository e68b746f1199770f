"""``python -m monai.bundle`` without a way to the internet, and what MONAI asks of a bundle's metadata."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import BUNDLE

SCHEMA = Path(__file__).parent / "bundles" / "metadata.schema.json"


def bundle_command(command: str, *arguments: str, cwd: Path = BUNDLE) -> str:
    """Run ``python -m monai.bundle`` offline; return what it says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", command, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr
