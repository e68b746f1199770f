"""A stand-in for a foundation model, trained here, where none can be reached.

It is a larger network than a small site has, trained on labelled images that no site has. That makes it a better
teacher than the sites' own networks on their kind of image, and nothing more: it is not a medical foundation
model, and its description says so.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import replacing, write_json
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.datalist import Datalist, read_datalist
from fedhelp_med.foundation.local import DESCRIPTION
from fedhelp_med.foundation.protocol import InputSpec
from fedhelp_med.foundation.standin_tasks import ClassTask, MaskTask, StandInTask

NOTE = "A stand-in trained for demonstration and tests. It is not a medical foundation model."
LEARNING_RATE = 1e-3
TORCHSCRIPT = "foundation.ts"
SMALLEST = 16  # pixels that remain one pixel after the network's four halvings


@dataclass(frozen=True)
class _Images:
    """Preprocessed images `N, C, W, H` with class indices `N` or masks `N, 1, W, H`."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Return a hash of pixels and labels."""
        digest = hashlib.sha256(self.pixels.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


def train_stand_in(
    datalist: Path,
    out: Path,
    *,
    seed: int,
    steps: int = 1200,
    batch_size: int = 16,
    threads: int = 2,
    input: InputSpec | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train a stand-in, unless ``out`` holds the one that the same arguments and images gave.

    Class indices as labels give a classifier, masks a network that answers at each pixel (``mask logits``).
    Adam with a cosine decay of the learning rate, random flips in the plane. The same images, arguments and machine
    give the same weights.

    Args:
        datalist: labelled images; its ``validation`` split, if there is one, is only measured on.
        out: the folder that receives ``foundation.ts`` and ``foundation.json``.
        seed: decides the initial weights, the batches and the flips.
        steps: optimiser steps.
        batch_size: images per step.
        threads: threads of torch; another number gives slightly different weights.
        input: the image that the model takes; by default as the first training image is.
        progress: called after each step with the number of steps done and of all steps.

    Returns:
        The path of ``foundation.json``.

    Raises:
        InputError: if an image has no label, there are fewer than two classes or one without a training image, a mask
            does not fit the classes, or the input is not two-dimensional with 16 pixels or more along each axis.
    """
    source = read_datalist(datalist)
    spec = input or InputSpec.like(source.splits["training"][0]["image"], spatial_dims=2)
    classes = source.classes or tuple(map(str, range(source.class_count or 0)))
    task: StandInTask = MaskTask() if source.is_segmentation else ClassTask()
    _check(source, classes, spec, task)
    training = _load(source, "training", spec, task, len(classes))
    _check_classes(source, classes, training)
    validation = _load(source, "validation", spec, task, len(classes)) if source.splits.get("validation") else None
    description = _describe(source.name, classes, spec, training, validation) | {"kind": task.kind}
    provenance = description["provenance"]
    provenance |= {"seed": seed, "steps": steps, "batch_size": batch_size, "threads": threads}
    file = out / DESCRIPTION
    if _is_same(file, description):
        return file
    with _reproducible(derive_seed(seed, "stand-in"), threads):
        network = task.network(spec.channels, len(classes))
        _train(network, training, task, steps, batch_size, progress)
        provenance["validation"] = None if validation is None else _measure(network, validation, task)
        script = _script(network, training.pixels[:3])
    with replacing(out / TORCHSCRIPT) as temporary:
        temporary.write_bytes(script)
    provenance["torchscript_sha256"] = hashlib.sha256(script).hexdigest()
    write_json(file, description)  # last: a description beside older weights would not be reused
    return file


def _check(source: Datalist, classes: Sequence[str], spec: InputSpec, task: StandInTask) -> None:
    if len(spec.size) != 2 or min(spec.size) < SMALLEST:
        raise InputError(f"the input has the size {spec.size}: give `input` two axes of {SMALLEST} pixels or more")
    for split in ("training", "validation"):
        for entry in source.splits.get(split, ()):
            if not task.fits(entry.get("label")):
                raise InputError(f"{source.path}: {entry['image']} has no {task.what} as label: a stand-in needs one")
    if len(classes) < 2:
        raise InputError(f"{source.path} declares the classes {classes}: a stand-in needs two or more")


def _check_classes(source: Datalist, classes: Sequence[str], training: _Images) -> None:
    present = set(np.unique(training.labels.numpy()).tolist())
    absent = [name for index, name in enumerate(classes) if index not in present]
    if absent:
        raise InputError(f"{source.path} has no training image of {', '.join(absent)}: a stand-in needs every class")


def _describe(
    name: str, classes: Sequence[str], spec: InputSpec, training: _Images, validation: _Images | None
) -> dict[str, Any]:
    return {
        "name": f"stand-in-{name}",
        "version": "1",
        "classes": list(classes),
        "input": spec.to_dict(),
        "torchscript": TORCHSCRIPT,
        "provenance": {
            "note": NOTE,
            "datalist": name,
            "images": len(training),
            "images_sha256": training.digest(),
            "validation_images": 0 if validation is None else len(validation),
            "validation_sha256": None if validation is None else validation.digest(),
            "torch": torch.__version__,
        },
    }


def _train(
    network: nn.Module,
    images: _Images,
    task: StandInTask,
    steps: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    network.train()
    for step, chosen in zip(range(steps), _batches(len(images), batch_size), strict=False):
        optimizer.zero_grad(set_to_none=True)
        pixels, labels = _flipped(images.pixels[chosen], images.labels[chosen])
        loss = task.loss(network(pixels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    network.eval()


def _batches(images: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches of indices without end: every epoch in another order, without its incomplete last batch."""
    size = min(batch_size, images)
    while True:
        order = torch.randperm(images)
        for first in range(0, images - size + 1, size):
            yield order[first : first + size]


def _flipped(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for axis in (2, 3):
        chosen = torch.rand(len(pixels), 1, 1, 1) < 0.5
        pixels = torch.where(chosen, pixels.flip(axis), pixels)
        if labels.ndim == pixels.ndim:
            labels = torch.where(chosen, labels.flip(axis), labels)
    return pixels, labels


def _measure(network: nn.Module, images: _Images, task: StandInTask) -> dict[str, float | None]:
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in torch.split(images.pixels, 64)])
    return task.measure(logits, images.labels)


def _script(network: nn.Module, example: torch.Tensor) -> bytes:
    """Return the network as TorchScript, which gave the same logits for another batch size than it was traced with."""
    buffer = io.BytesIO()  # saved to a file, the archive would hold the file's temporary name
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit: still the format of MONAI's model.ts
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python boolean")  # a check in group_norm
        torch.jit.save(torch.jit.trace(network, example[:1]), buffer)  # type: ignore[no-untyped-call]
        buffer.seek(0)
        restored = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
        if not torch.equal(restored(example), network(example)):
            raise FedHelpError("the TorchScript of the stand-in answers differently from the network: not written")
    return buffer.getvalue()


def _load(source: Datalist, split: str, spec: InputSpec, task: StandInTask, classes: int) -> _Images:
    entries = source.splits[split]
    pixels = np.empty((len(entries), *spec.shape), dtype=np.float32)
    for index, entry in enumerate(entries):
        pixels[index] = spec.preprocess(entry["image"])
    return _Images(torch.from_numpy(pixels), task.labels(entries, spec, classes))


def _is_same(file: Path, description: dict[str, Any]) -> bool:
    """Whether ``file`` and the weights beside it are what training from this description would give again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        script = (file.parent / TORCHSCRIPT).read_bytes()
        digest = found["provenance"].pop("torchscript_sha256")
        found["provenance"].pop("validation")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(found == description and digest == hashlib.sha256(script).hexdigest())


@contextmanager
def _reproducible(seed: int, threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
