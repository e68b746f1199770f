"""What each page of the documentation takes for granted: small data and runs, made by the package itself."""

import base64
import dataclasses
import io
import json
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import trustme
import yaml
from conftest import SMALL, write_federation, write_site
from dicom_samples import oblique, ramp, write_radiograph, write_series
from docs_blocks import ROOT, blocks
from docs_follow import Follower
from mask_sites import TINY, write_crops, write_mask_site
from PIL import Image
from torch import nn

from fedhelp_med.cli import demo as demo_module
from fedhelp_med.cli import examples
from fedhelp_med.data import make_icbm_sites
from fedhelp_med.export import costs
from fedhelp_med.federation.nvflare.plan import read_plan
from fedhelp_med.foundation import InputSpec
from fedhelp_med.methods import METHODS

FEW = {
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 4,
    "large_training": 4,
    "small_validation": 2,
    "large_validation": 2,
    "testing": 4,
    "public": 6,
    "foundation": 8,
}
WARM = {"warm_start": 2, "large_warm_start": 2, "server_steps": 1}


class Corner(nn.Module):
    """Tells two classes by the brightness of a corner."""

    def forward(self, images):
        bright = images[:, 0, :6, :6].mean((1, 2))
        return torch.stack([torch.zeros_like(bright), 90 * (bright - 0.6)], 1)


def small_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``fedhelp demo`` make few studies and train tiny networks for a round: everything but the quality."""
    make_example = demo_module.make_example

    def few(maker: Callable[..., Any], **more: int) -> Callable[..., Any]:
        return lambda *arguments, **options: maker(*arguments, **options, **FEW, **more)

    def make(task: str, *arguments: Any) -> examples.Example:
        example = make_example(task, *arguments)
        spec = example.stand_in_input and InputSpec(3, (16, 16))
        overrides = SMALL if task == "classification" else TINY
        return dataclasses.replace(
            example, overrides=overrides, stand_in_input=spec, rounds=1, local_epochs=1, stand_in_batch=4
        )

    for name, more in (
        ("make_icbm_sites", {"foundation_validation": 2}),
        ("make_tissue_sites", {"foundation_validation": 2}),
        ("make_medmnist_sites", {}),
        ("make_blood_cell_sites", {}),
    ):
        monkeypatch.setattr(examples, name, few(getattr(examples, name), **more))
    monkeypatch.setattr(demo_module, "make_example", make)
    monkeypatch.setattr(demo_module, "STAND_IN_STEPS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # all sites in this process
    for method in METHODS.values():
        defaults = {key: field.default for key, field in method.settings_type.model_fields.items()}
        presets = {}
        for name, values in method.presets.items():
            few_steps = {key: steps for key, steps in WARM.items() if {**defaults, **values}.get(key)}
            presets[name] = {**values, **few_steps}
        monkeypatch.setattr(method, "presets", presets)


def write_public(folder: Path) -> None:
    """Write a labelled public set, and a foundation model that knows its classes."""
    datalist = write_site(folder / "public", training=10, validation=0, testing=0, seed=9)
    content = {key: value for key, value in json.loads(datalist.read_text()).items() if value != []}
    datalist.write_text(json.dumps(content | {"public": True}))
    torch.jit.script(Corner()).save(str(folder / "foundation.ts"))
    about = {"name": "corner", "version": "1", "classes": ["class 0", "class 1"], "torchscript": "foundation.ts"}
    (folder / "foundation.json").write_text(json.dumps(about | {"input": InputSpec(1, (16, 16)).to_dict()}))


def write_mask_federation(folder: Path, **overrides: Any) -> None:
    """Write a federation file of two tiny clinics that outline blocks."""
    for index, name in enumerate(("clinic-a", "clinic-b")):
        write_mask_site(folder / "sites" / name, seed=index, **({"shape": (24, 20, 16)} if overrides else {}))
    content = {
        "name": "blocks",
        "rounds": 1,
        "method": "fedavg",
        "bundle": "fedhelp_segmentation",
        "overrides": TINY | overrides,
        "sites": [
            {"name": name, "role": "small", "data": f"sites/{name}/datalist.json"} for name in ("clinic-a", "clinic-b")
        ],
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))


def quickstart(page: Follower) -> None:
    small_demos(page.monkeypatch)
    write_federation(page.folder, rounds=1, preset="recommended", settings=WARM, reference="local")


def add_a_method(page: Follower) -> None:
    def run() -> None:
        page.monkeypatch.setitem(METHODS, "my-fedprox", page.defined("MyFedProx"))
        federation = write_federation(page.folder, rounds=1, method="my-fedprox", settings={"mu": 0.1})
        page.fedhelp("run", str(federation), "--out", "run")

    page.finish.append(run)


def own_network(page: Follower) -> None:
    roles = {"clinic-a": "small", "hospital-a": "large"}
    sites = [{"name": name, "role": role, "data": f"sites/{name}/datalist.json"} for name, role in roles.items()]
    page.base = {"overrides": {"image_size": [32, 32], "batch_size": 4}, "sites": sites}


def weak_hardware(page: Follower) -> None:
    make_icbm_sites(page.folder, seed=0, **FEW, foundation_validation=2)
    sites = [("clinic-a", "small"), ("hospital-a", "large")]
    content = {"name": "slabs", "rounds": 1, "method": "fedavg", "overrides": SMALL}
    content["sites"] = [{"name": name, "role": role, "data": f"sites/{name}/datalist.json"} for name, role in sites]
    (page.folder / "federation.yaml").write_text(yaml.safe_dump(content))
    page.fedhelp("run", "federation.yaml", "--out", "run")
    page.monkeypatch.setattr(costs, "REPEATS", 1)  # not several times: each is a process that imports torch
    study = next((page.folder / "sites").rglob("*.nii"))
    nibabel.save(nibabel.load(study), page.folder / "study.nii.gz")


def federation_file(page: Follower) -> None:
    for index, name in enumerate(("clinic-a", "clinic-b", "hospital")):
        write_site(page.folder / "sites" / name, training=6, seed=index)
    write_public(page.folder)


def foundation_models(page: Follower) -> None:
    write_public(page.folder)
    page.base = {"public": {"data": "public/datalist.json"}, "settings": {"guidance": 1.0}}
    write_federation(page.folder, **page.base, foundation={"ledger": "knowledge.sqlite"})

    def known() -> None:
        assert len(page.defined("items")) == 10 and all("knowledge" in item for item in page.defined("items"))

    page.finish.append(known)


def laptop(page: Follower) -> None:
    write_public(page.folder)
    changes = {"public": {"data": "public/datalist.json"}, "foundation": {"ledger": "knowledge.sqlite"}}
    federation = write_federation(page.folder, rounds=1, preset="recommended", settings=WARM, **changes)
    page.fedhelp("foundation", "acquire", "--model", "foundation.json", "--federation", str(federation))

    def at_the_site() -> None:
        plan = read_plan(page.folder / "job/app_clinic-a/custom/fedhelp.json")
        assert plan.file.sites[0].data == "/data/federation/datalist.json"
        assert plan.file.public.data == "/data/public/datalist.json"
        assert plan.file.foundation.ledger == "/data/knowledge.sqlite"
        assert plan.folder().parent == Path("/data/fedhelp")

    page.finish.append(at_the_site)


def monai_label(page: Follower) -> None:
    write_mask_federation(page.folder)
    page.fedhelp("run", "federation.yaml", "--out", "run")


def predict(page: Follower) -> None:
    small_demos(page.monkeypatch)
    monai_label(page)


def report(page: Follower) -> None:
    federation = str(write_federation(page.folder, rounds=1, seed=0, reference="local"))
    page.fedhelp("run", federation, "--out", "run")
    words = ("--methods", "local,fedhelp", "--seeds", "1", "--workers", "1", "--out", "comparison")
    page.fedhelp("compare", federation, *words)


def results(page: Follower) -> None:
    small_demos(page.monkeypatch)
    (page.folder / "tests").symlink_to(ROOT / "tests")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("val", 12), ("test", 12)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(page.folder / "pneumoniamnist.npz", **arrays)
    with zipfile.ZipFile(page.folder / "mednist_300_per_class.zip", "w") as archive:
        for index in range(12):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(picture, "JPEG")
            archive.writestr(f"pictures/{('CXR', 'Hand')[index % 2]}/{index}.jpeg", picture.getvalue())
    write_crops(page.folder / "wbc_jiangxi", 32)
    write_crops(page.folder / "wbc_cellavision", 20, seed=1)


def segmentation(page: Follower) -> None:
    small_demos(page.monkeypatch)
    write_crops(page.folder / "CELLS", 32)
    write_crops(page.folder / "OTHER_STAIN", 20, seed=1)


class Scores(BaseHTTPRequestHandler):
    """The service that the page's adapter speaks to."""

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [np.frombuffer(base64.b64decode(image), np.float32) for image in content["images"]]
        assert (self.path, content["task"]) == ("/v1/score", "lesions")
        assert all(image.size == np.prod(content["shape"]) for image in images)
        body = json.dumps({"scores": [[float(image.mean()), 1.0] for image in images]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def own_model(page: Follower) -> None:
    (page.folder / "bundles").symlink_to(ROOT / "bundles")
    trustme.CA().cert_pem.write_to_path(str(page.folder / "hospital-ca.pem"))
    torch.jit.script(Corner()).save(str(page.folder / "foundation.ts"))
    page.monkeypatch.setenv("MODEL_TOKEN", "s3cret")
    service = ThreadingHTTPServer(("127.0.0.1", 0), Scores)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    page.cleanup(service.server_close)
    page.cleanup(service.shutdown)
    page.changes["https://models.example"] = f"http://127.0.0.1:{service.server_port}"


def own_data(page: Follower) -> None:
    (table,) = (block.text for block in blocks("csv") if block.page == "docs/your-own-data-in-ten-minutes.md")
    rows = [row.split(",") for row in table.splitlines()[1:]]
    rows += [(f"More {index}", rows[index % 2][1]) for index in range(18)]
    (page.folder / "diagnoses.csv").write_text("patient,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    rng = np.random.default_rng(0)
    for index, (patient, _) in enumerate(rows):
        pixels = rng.integers(0, 4000, (32, 32)).astype(np.uint16)
        write_radiograph(page.folder / "disk" / f"image-{index}", pixels, patient=patient)
    write_radiograph(page.folder / "disk/xray.dcm", patient="Nobody")
    write_series(page.folder / "disk/ct-series", ramp(), oblique(), modality="CT")
    hospital = write_site(page.folder / "hospital", training=12)
    labels = {"0": "normal", "1": "pneumonia"}
    hospital.write_text(json.dumps(json.loads(hospital.read_text()) | {"labels": labels}))


PREPARE: dict[str, Callable[[Follower], None]] = {
    "README.md": lambda page: small_demos(page.monkeypatch),
    "docs/add-a-method.md": add_a_method,
    "docs/bring-your-own-network.md": own_network,
    "docs/deploy-on-weak-hardware.md": weak_hardware,
    "docs/disparity.md": lambda page: write_federation(page.folder, rounds=1) and None,
    "docs/federation-file.md": federation_file,
    "docs/foundation-models.md": foundation_models,
    "docs/from-laptop-to-hospitals.md": laptop,
    "docs/monai-label-and-slicer.md": monai_label,
    "docs/predict.md": predict,
    "docs/quickstart.md": quickstart,
    "docs/report.md": report,
    "docs/results.md": results,
    "docs/segmentation.md": segmentation,
    "docs/serve-your-own-foundation-model.md": own_model,
    "docs/your-own-data-in-ten-minutes.md": own_data,
}
"""What is there before a page is followed."""
