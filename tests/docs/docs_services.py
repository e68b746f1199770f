"""The real servers of the pages that speak of one, in the environments that the Makefile makes."""

import contextlib
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import nibabel
import numpy as np
import pytest
from archives import Orthanc, free_port, own_network
from docs_blocks import ROOT
from docs_follow import Follower
from docs_inputs import FEW, laptop, own_model, report, write_mask_federation
from mask_sites import make_study
from PIL import Image
from triton_service import CACHE, free_ports, need_triton
from triton_service import PYTHON as TRITON

from fedhelp_med.data import make_icbm_sites
from fedhelp_med.data.simulated_scan import Scan, as_series

LABEL = CACHE / "monailabel-0.8.5"
SHAPE = (24, 20, 16)


def unavailable(reason: str) -> None:
    """In CI a missing service is a failure, elsewhere the test is skipped."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@contextlib.contextmanager
def nvflare(page: Follower) -> Iterator[None]:
    if importlib.util.find_spec("nvflare") is None:
        unavailable("nvflare is not installed (make services-nvflare)")
    laptop(page)
    with own_network():  # NVFlare's server listens on all interfaces
        yield


@contextlib.contextmanager
def monai_label(page: Follower) -> Iterator[None]:
    if not (LABEL / "bin/monailabel").is_file():
        unavailable(f"MONAI Label is not installed in {LABEL} (make services-monai-label)")
    write_mask_federation(page.folder, spatial_dims=3, image_size=None, roi_size=[16, 16, 16])
    page.fedhelp("run", "federation.yaml", "--out", "run")
    for index, name in enumerate(("volume", "other")):
        image, mask = make_study(np.random.default_rng(index), SHAPE)
        for folder, array in (("studies", image), ("studies/labels/final", mask)):
            (page.folder / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), page.folder / folder / f"{name}.nii.gz")
    (page.folder / "label").symlink_to(LABEL)
    (page.folder / "packages").mkdir()
    (page.folder / "packages/fedhelp_med").symlink_to(ROOT / "fedhelp_med")
    for name, value in (("HOME", page.folder), ("PYTHONPATH", page.folder / "packages"), ("OMP_NUM_THREADS", 1)):
        page.monkeypatch.setenv(name, str(value))
    page.monkeypatch.setenv("MONAI_LABEL_TRACKING_ENABLED", "false")
    port = str(free_port())
    page.changes["8000"] = port
    page.servers["monailabel start_server"] = f"http://127.0.0.1:{port}/info/"
    page.tops["import torch"] = "apps/monaibundle/main.py"
    weights = page.folder / "apps/monaibundle/model/clinic_segmentation/models/model.pt"

    def answered() -> None:
        assert nibabel.load(page.folder / "mask.nii.gz").shape == SHAPE
        assert "Training Finished" in (page.folder / "server.log").read_text()
        assert weights.read_bytes() != (page.folder / "clinic_segmentation/models/model.pt").read_bytes()

    page.finish.append(answered)
    yield


@contextlib.contextmanager
def pacs(page: Follower) -> Iterator[None]:
    voxels = np.random.default_rng(0).integers(0, 4000, (6, 16, 20)).astype(np.int16)
    files = as_series(Scan(voxels, (0.9, 1.1, 1.5), (1.0, 2.0, 3.0)), "site", "12345", 0)
    with own_network(), Orthanc(page.folder / "orthanc").running() as archive:
        archive.store(files.values())
        page.changes |= {
            "https://pacs.example/dicom-web": archive.web,
            "dicom://pacs.example:104/ARCHIVE": archive.classic,
            "192.0.2.7:11112": f"127.0.0.1:{archive.move}",
        }

        def fetched() -> None:
            for name in ("studies", "got", "moved"):
                assert len(list((page.folder / name).glob("*/*/*.dcm"))) == len(files)

        page.finish.append(fetched)
        yield


@contextlib.contextmanager
def tensorboard(page: Follower) -> Iterator[None]:
    report(page)
    port = free_port()
    page.changes["--logdir run/sites"] = f"--logdir run/sites --port {port}"
    page.servers["tensorboard"] = f"http://localhost:{port}/"
    yield


@contextlib.contextmanager
def triton(page: Follower) -> Iterator[None]:
    need_triton()
    own_model(page)
    data = make_icbm_sites(page.folder / "data", seed=0, **FEW, foundation_validation=2)
    (page.folder / "public").symlink_to(data.public.parent)
    random = np.random.default_rng(0)
    for index in range(6):
        path = page.folder / "labelled" / ("dark", "light")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.integers(0, 100, (32, 32)) + 100 * (index % 2)).astype(np.uint8)).save(path)
    (page.folder / "serve").symlink_to(TRITON.parents[1])
    ask = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    library = subprocess.run([TRITON, "-c", ask], check=True, capture_output=True, encoding="utf-8").stdout.strip()
    page.monkeypatch.setenv("LD_LIBRARY_PATH", library)
    port = free_ports(3)
    page.changes["8000"] = str(port)
    for name in ("bundle", "probe"):
        page.servers[f"serve/bin/python serve_{name}.py"] = f"http://127.0.0.1:{port}/v2/models/{name}/ready"
    with tempfile.TemporaryDirectory() as home:  # a short path: sockets are made below it
        page.monkeypatch.setenv("PYTRITON_HOME", home)
        yield
        page.close()


SERVED: dict[str, Callable[[Follower], contextlib.AbstractContextManager[None]]] = {
    "docs/from-laptop-to-hospitals.md": nvflare,
    "docs/monai-label-and-slicer.md": monai_label,
    "docs/pacs.md": pacs,
    "docs/report.md": tensorboard,
    "docs/serve-your-own-foundation-model.md": triton,
}
"""What starts before a page of ``SERVICES`` is followed, and ends after it."""
