"""``python -m monai.bundle`` without a way to the internet, and what MONAI asks of a bundle's metadata."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE
from monai.bundle import ConfigWorkflow

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


def check_inference_on_a_folder_without_images(bundle: Path, folder: Path) -> None:
    """A bundle's ``inference.json`` ends with a remedy where a folder has no image, and takes endings in capitals."""

    def workflow() -> ConfigWorkflow:
        return ConfigWorkflow(
            config_file=str(bundle / "configs/inference.json"),
            workflow_type="infer",
            logging_file=False,
            dataset_dir=str(folder),
            bundle_root=str(bundle),
        )

    (folder / "slice.dcm").touch()
    expected = r"no image with the ending .nii, .nii.gz, .png.* read DICOM with fedhelp pred"
    with pytest.raises(SystemExit, match=expected):
        workflow().initialize()
    (folder / "CAPITALS.PNG").touch()
    assert workflow().parser.get_parsed_content("datalist") == [str(folder / "CAPITALS.PNG")]
