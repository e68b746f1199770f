"""What the foundation model is worth to a clinic, by its private images, the public set and the model.

``python tests/experiments/guidance.py TASK DATA FAR OUT [--seeds N]``: TASK is ``pneumonia`` (DATA a MedMNIST file, FAR
a zip of other radiographs) or ``cells`` (DATA and FAR folders of blood-cell crops of two stains). It makes a federation
of four clinics and a hospital that train the small network, runs FedHelp's preset ``recommended`` with every public set
and model, and without any, and writes ``OUT/guidance.md``. What is finished is not run again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedhelp_med.cli.run import quieten
from fedhelp_med.common.files import write_json, write_text
from fedhelp_med.data import DemoData, make_blood_cell_sites, make_medmnist_sites
from fedhelp_med.data.datalist import read_datalist
from fedhelp_med.federation.comparison import make_cells
from fedhelp_med.federation.loading import load_federation, save_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.workspace import Workspace, key_metric
from fedhelp_med.foundation import InputSpec, acquire, load_local_model, train_stand_in
from fedhelp_med.report.statistics import seed_weights

STEPS = {"good": 700, "mediocre": 20}
"""Training steps of the two stand-in foundation models."""


ROUNDS = 10
SETTINGS: dict[str, float] = {}
"""Settings of FedHelp other than the preset's."""


@dataclass(frozen=True)
class Task:
    """How a task is trained and where its private images are cut."""

    bundle: str
    images: tuple[int, ...]
    local_epochs: int
    overrides: dict[str, Any]
    batch: int
    input: InputSpec | None


TASKS = {
    "pneumonia": Task("fedhelp_classification", (10, 20, 40, 80), 1, {}, 16, None),
    "cells": Task("fedhelp_segmentation", (5, 10, 20), 1, {"image_size": [64, 64]}, 4, InputSpec(3, (64, 64))),
}


def make_data(name: str, data: Path, far: Path | None, folder: Path) -> DemoData:
    """Make the federation's studies with the public set of ``data`` itself, or of ``far``."""
    most = TASKS[name].images[-1]
    if name == "pneumonia":
        return make_medmnist_sites(folder, data, seed=0, public_zip=far, small_training=most, large_sites=1)
    return make_blood_cell_sites(folder, data, seed=0, public_source=far, small_training=most, large_sites=1)


def make_federations(name: str, data: Path, far: Path, out: Path) -> dict[tuple[int, str, str], Path]:
    """Write a federation file for each number of private images, public set and foundation model."""
    task = TASKS[name]
    sets = {"near": make_data(name, data, None, out / "near"), "far": make_data(name, data, far, out / "far")}
    files = {}
    for quality, steps in STEPS.items():
        model = train_stand_in(
            sets["near"].foundation,
            out / f"model-{quality}",
            seed=0,
            steps=steps,
            batch_size=task.batch,
            threads=1,
            input=task.input,
        )
        for public, demo in sets.items():
            ledger = out / f"{public}-{quality}.sqlite"
            images_only = without_labels(demo.public)
            acquire(images_only, load_local_model(model), ledger)
            for images in task.images:
                path = out / f"{images}-{public}-{quality}.yaml"
                content = {
                    "name": path.stem,
                    "rounds": ROUNDS,
                    "local_epochs": task.local_epochs,
                    "preset": "recommended",
                    "settings": SETTINGS,
                    "bundle": task.bundle,
                    "overrides": task.overrides,
                    "public": {"data": str(images_only.relative_to(out))},
                    "foundation": {"ledger": ledger.name},
                    "reference": "local",
                    "sites": [
                        {"name": site.name, "role": "small", "data": cut(site.datalist, images, out)}
                        for site in sets["near"].sites
                    ],
                }
                write_text(path, yaml.safe_dump(content, sort_keys=False))
                files[images, public, quality] = path
    return files


def without_labels(datalist: Path) -> Path:
    """Write a public datalist without its labels: those of another domain are of other classes."""
    path = datalist.with_name("datalist-unlabelled.json")
    content = json.loads(datalist.read_text())
    content.pop("labels", None)
    images = [{key: value for key, value in item.items() if key != "label"} for item in content["training"]]
    write_json(path, content | {"training": images})
    return path


def cut(datalist: Path, images: int, out: Path) -> str:
    """Write a datalist with a clinic's first ``images`` training studies; the hospital keeps all."""
    if datalist.parent.name.startswith("hospital"):
        return str(datalist.relative_to(out))
    path = datalist.with_name(f"datalist-{images}.json")
    content = json.loads(datalist.read_text())
    write_json(path, content | {"training": content["training"][:images]})
    read_datalist(path)
    return str(path.relative_to(out))


def run_all(files: dict[tuple[int, str, str], Path], out: Path, seeds: int) -> None:
    """Run local-only, FedHelp without a foundation model, and FedHelp with each public set and model."""
    some = {images: path for (images, public, quality), path in files.items() if (public, quality) == ("near", "good")}
    for seed in range(seeds):
        for images, path in some.items():
            run(path, "local", seed, cell(out, images, "local", seed))
            run(path, "fedhelp-no-guidance", seed, cell(out, images, "none", seed))
        for (images, public, quality), path in files.items():
            run(path, "fedhelp", seed, cell(out, images, f"{public}-{quality}", seed))


def cell(out: Path, images: int, condition: str, seed: int) -> Path:
    """Return a run's folder."""
    return out / "cells" / str(images) / condition / f"seed-{seed}"


def run(path: Path, method: str, seed: int, folder: Path) -> None:
    """Run one method; it chooses among its networks and the local-only one, which was trained already."""
    if Workspace(folder).complete:
        return
    federation = make_cells(load_federation(path), [method], 1, folder)[0].federation
    federation = federation.with_file(federation.file.model_copy(update={"seed": seed}))
    local = folder.parents[1] / "local" / folder.name
    if method != "local" and not Workspace(folder).federation_file.is_file():
        save_federation(federation, Workspace(folder).federation_file)
        (folder / "reference").symlink_to(local.resolve())
    run_federation(federation, folder, resume=True)
    print(folder, flush=True)


def deployed(folder: Path) -> np.ndarray:
    """Return the clinics' results on their testing splits, in the key metric."""
    rows = [row for row in Workspace(folder).final() if row.model == "deployed" and row.site.startswith("clinic")]
    metric = key_metric(row.metric for row in rows)
    return np.array([row.value for row in sorted(rows, key=lambda row: row.site) if row.metric == metric])


def results(files: dict[tuple[int, str, str], Path], out: Path, seeds: int) -> Iterator[str]:
    """Yield the table: what each condition adds to FedHelp without a foundation model, pair by pair."""
    yield "| private images | public set | model | without | with | difference | 95 % interval | local-only |"
    yield "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for images, public, quality in sorted(files):
        conditions = ("local", "none", f"{public}-{quality}")
        done = [s for s in range(seeds) if all(Workspace(cell(out, images, c, s)).complete for c in conditions)]
        if not done:
            continue
        local, without, knowing = (np.stack([deployed(cell(out, images, c, s)) for s in done]) for c in conditions)
        gain = knowing - without
        random = np.random.default_rng(0)
        low, high = np.quantile(seed_weights(len(done), 2000, random) @ gain.mean(axis=1), (0.025, 0.975))
        yield (
            f"| {images} | {public} | {quality} | {without.mean():.3f} | {knowing.mean():.3f} | {gain.mean():+.3f} | "
            f"{low:+.3f} to {high:+.3f} | {local.mean():.3f} |"
        )


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path)
    parser.add_argument("far", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    quieten()
    out = given.out.resolve()
    files = make_federations(given.task, given.data, given.far, out)
    run_all(files, out, given.seeds)
    text = "\n".join(results(files, out, given.seeds)) + "\n"
    write_text(out / "guidance.md", text)
    print(text)


if __name__ == "__main__":
    main()
