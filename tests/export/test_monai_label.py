"""Bundles in MONAI Label's real server, which has an environment of its own (``make services-monai-label``)."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from archives import Orthanc, free_port, own_network
from conftest import BUNDLE
from mask_sites import SEGMENTATION, TINY, make_study, write_mask_site
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from fedhelp_med.export.bundle import export_bundle
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation

pytestmark = pytest.mark.service

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhelp-med"
ENVIRONMENT = CACHE / "monailabel-0.8.5"
PACKAGE = BUNDLE.parents[1] / "fedhelp_med"

SHAPE = (24, 20, 16)
AFFINE = np.diag([0.9, 0.9, 2.5, 1.0])

OPERATORS = """import torch

_operators = torch.library.Library("torchvision", "DEF")  # torchvision is imported without need, and lacks its own
_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """MONAI Label's app for bundles, as its own command makes it."""
    if not (ENVIRONMENT / "bin" / "monailabel").is_file():
        reason = f"MONAI Label is not installed in {ENVIRONMENT} (make services-monai-label)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("label")
    (folder / "packages").mkdir()
    (folder / "packages" / "fedhelp_med").symlink_to(PACKAGE)
    (folder / "tools").mkdir()
    seg = (
        folder / "tools" / "itkimage2segimage"
    )  # of dcmqi, which writes DICOM SEG: at start it is downloaded if missing
    seg.write_text("#!/bin/sh\nexit 1\n")
    seg.chmod(0o755)
    command = ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", str(folder / "apps")]
    subprocess.run(command, env=environment(folder), check=True, capture_output=True)
    main = folder / "apps/monaibundle/main.py"
    main.write_text(OPERATORS + main.read_text())
    return folder


def environment(folder: Path) -> dict[str, str]:
    own = {
        "PATH": f"{ENVIRONMENT / 'bin'}:{folder / 'tools'}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "packages"),
    }
    return {**os.environ, **own, "HOME": str(folder), "OMP_NUM_THREADS": "1", "MONAI_LABEL_TRACKING_ENABLED": "false"}


class Server:
    """A running MONAI Label server."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, content: object = None, timeout: float = 300) -> bytes:
        """GET a path, or POST JSON to it."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()

    def infer(self, model: str, image: str, output: str) -> bytes:
        """Let a model answer about an image, by its identity in the datastore."""
        form = urllib.parse.urlencode({"params": json.dumps({"device": "cpu"})}).encode()
        path = f"/infer/{model}?image={urllib.parse.quote(image)}&output={output}"
        with urllib.request.urlopen(urllib.request.Request(self.address + path, data=form), timeout=300) as answer:
            return answer.read()


@contextlib.contextmanager
def serving(folder: Path, bundles: dict[str, Path], studies: str, *conf: str):
    """Serve bundles as they are, with nothing but the loopback needed."""
    models = folder / "apps/monaibundle/model"
    shutil.rmtree(models, ignore_errors=True)
    for name, bundle in bundles.items():
        shutil.copytree(bundle, models / name)
    port = free_port()
    command = [
        "monailabel", "start_server", "--app", str(folder / "apps/monaibundle"), "--studies", studies,
        "--conf", "models", ",".join(bundles), "--conf", "zoo_source", "ngc", "--conf", "sam2", "false",
        "--conf", "skip_scoring", "true", "--conf", "skip_strategies", "true", *conf,
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment(folder), stdout=file, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
        )
    server = Server(port)
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                server.ask("/info/", timeout=60)
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
        yield server
    except urllib.error.HTTPError as error:
        pytest.fail(f"{error}: {error.read().decode()[:500]}\n{log.read_text()[-4000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """What a clinic of a finished federation of volumes deploys, as a bundle."""
    folder = tmp_path_factory.mktemp("federation")
    sites = []
    for index, name in enumerate(("clinic-a", "clinic-b")):
        write_mask_site(folder / name, shape=SHAPE, affine=AFFINE, seed=index)
        sites.append({"name": name, "role": "small", "data": f"{name}/datalist.json"})
    content = {
        "name": "blocks",
        "rounds": 2,
        "method": "fedavg",
        "bundle": "fedhelp_segmentation",
        "overrides": TINY | {"spatial_dims": 3, "image_size": None, "roi_size": [16, 16, 16], "learning_rate": 0.02},
        "sites": sites,
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))
    run_federation(load_federation(folder / "federation.yaml"), folder / "run")
    export_bundle(folder / "run", "clinic-a", folder / "bundle")
    return folder / "bundle"


def save(array: np.ndarray, path: Path, affine: np.ndarray = np.eye(4)) -> None:  # noqa: B008
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def check_mask(content: bytes, path: Path, shape: tuple[int, ...]) -> nibabel.Nifti1Image:
    """Read an answer: class indices in the image's own size."""
    path.write_bytes(content)
    found = nibabel.load(path)
    assert found.shape == shape
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2}
    return found


def test_bundles_load_infer_and_train(app, exported, tmp_path):
    studies = tmp_path / "studies"
    for index in range(2):
        image, mask = make_study(np.random.default_rng(index), SHAPE)
        save(image, studies / f"volume-{index}.nii.gz", AFFINE)
        save(mask, studies / f"labels/final/volume-{index}.nii.gz", AFFINE)
    save(np.random.default_rng(0).normal(100, 20, (64, 64, 8)).astype(np.float32), studies / "slab.nii.gz")
    save(np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32), studies / "slice.nii.gz")
    bundles = {"clinic_segmentation": exported, "fedhelp_segmentation": SEGMENTATION, "fedhelp_classification": BUNDLE}
    with serving(app, bundles, str(studies)) as server:
        models = json.loads(server.ask("/info/"))["models"]
        assert set(models["clinic_segmentation"]["labels"]) == {"grey block", "bright block"}
        assert set(models["fedhelp_segmentation"]["labels"]) == {"grey matter", "white matter"}
        assert set(models["fedhelp_classification"]["labels"]) == {"no lesion", "lesion"}
        kinds = {name: model["type"] for name, model in models.items()}
        assert kinds == {name: name.split("_")[1] for name in bundles}

        mask = check_mask(server.infer("clinic_segmentation", "volume-0", "image"), tmp_path / "volume.nii.gz", SHAPE)
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
        # MONAI Label itself leaves the channel axis before a mask in two dimensions.
        check_mask(server.infer("fedhelp_segmentation", "slice", "image"), tmp_path / "slice.nii.gz", (1, 64, 64))

        answer = json.loads(server.infer("fedhelp_classification", "slab", "json"))
        scores = {entry["label"]: entry["score"] for entry in answer["prediction"]}
        assert set(scores) == {"no lesion", "lesion"} and sum(scores.values()) == pytest.approx(1, abs=1e-4)

        weights = app / "apps/monaibundle/model/clinic_segmentation/models/model.pt"
        before = weights.read_bytes()
        settings = {"max_epochs": 1, "val_split": 0.5, "device": "cpu", "tracking": "None", "multi_gpu": False}
        server.ask("/train/clinic_segmentation?run_sync=true", settings)
        assert "Training Finished" in (app / "server.log").read_text()
        assert weights.read_bytes() != before  # one epoch, and a new model
        check_mask(server.infer("clinic_segmentation", "volume-1", "image"), tmp_path / "after.nii.gz", SHAPE)


def dicom_series(image: np.ndarray) -> tuple[str, list[bytes]]:
    """Return a volume as an MR series: its identity, and its files."""
    study, series = generate_uid(), generate_uid()
    files = []
    for index in range(image.shape[2]):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientID, dataset.PatientName, dataset.Modality = "phantom", "Phantom", "MR"
        dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20260101", "120000", "1", "1"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
        dataset.ImagePositionPatient = [-10, -12, 2.5 * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.9, 0.9], 2.5
        dataset.Columns, dataset.Rows = image.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.PixelData = np.ascontiguousarray(image[:, :, index].T).astype("<i2").tobytes()
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        files.append(content.getvalue())
    return series, files


def test_a_dicom_series_through_dicomweb(app, exported, tmp_path):
    image, _ = make_study(np.random.default_rng(0), SHAPE)
    series, files = dicom_series(image)
    with own_network(), Orthanc(tmp_path / "archive").running() as archive:
        archive.store(files)
        bundles = {"clinic_segmentation": exported}
        with serving(app, bundles, archive.web, "--conf", "skip_trainers", "true") as server:
            content = server.infer("clinic_segmentation", series, "image")
    check_mask(content, tmp_path / "mask.nii.gz", SHAPE)
