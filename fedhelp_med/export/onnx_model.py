"""A site's deployed network for onnxruntime: float32, checked against torch, and faster forms of it."""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import ResizeWithPadOrCrop
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError, InputError, first_line
from fedhelp_med.common.files import check_empty, replacing_folder, write_json
from fedhelp_med.export.costs import Cost, measure
from fedhelp_med.export.deployed import Deployed, read_deployed
from fedhelp_med.export.preprocessing import check_preparation, describe, preparation
from fedhelp_med.export.rewriting import rewritten
from fedhelp_med.export.scoring import validation_score
from fedhelp_med.export.variants import Judge, probabilities, quantise

OPSET = 20
TOLERANCE = 1e-4
"""The largest difference of a probability between torch and onnxruntime that is accepted in float32."""

STUDIES = 16
"""How many of the site's own studies are compared, where they are at hand."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written and how it compares.

    Args:
        deployed: the site's networks.
        difference: the largest difference of a probability to torch.
        compared: how many images and noise arrays were compared.
        costs: by ``torch``, ``onnxruntime``, ``onnxruntime merged`` and ``onnxruntime int8``.
        merged: why one network in place of several was kept or not.
        int8: why int8 was kept or not.
    """

    deployed: Deployed
    difference: float
    compared: int
    costs: Mapping[str, Cost]
    merged: str
    int8: str


def export_onnx(run: Path, site: str, out: Path) -> OnnxReport:
    """Write ``model.onnx`` and ``model.json`` of a finished site to ``out``, and the variants that are worth it.

    Raises:
        InputError: when the extra is missing, the run has no such deployed network, its bundle prepares images for
            inference in another way than for validation, or ``out`` is not empty.
        FedHelpError: when onnxruntime does not give torch's answers.
    """
    _require_extra()
    check_empty(out)
    deployed = read_deployed(run, site)
    check_preparation(deployed)
    network, shape = deployed.network(), deployed.input_shape()
    with replacing_folder(out.absolute()) as folder:
        file = folder / "model.onnx"
        write_onnx(network, shape, file)
        studies = _studies(deployed, shape)
        inputs = _noise(shape) + studies
        difference = largest_difference(network, file, inputs)
        if not difference <= TOLERANCE:
            raise FedHelpError(f"{site}: onnxruntime's probabilities differ from torch's by {difference:.2g}")
        costs = measure({"torch": ("torch", str(run), site), "onnxruntime": ("onnx", str(file), json.dumps(shape))})
        judge = Judge(network, studies, validation_score(deployed))
        merged = _try_merged(deployed, judge, folder, costs)
        int8 = _try_int8(judge, shape, folder, costs)
        content = describe(deployed) | {
            "site": site,
            "networks": list(deployed.names),
            "opset": OPSET,
            "tolerance": {"probability": TOLERANCE, "measured": difference},
            "cost": {name: vars(cost) for name, cost in costs.items()},
            "merged": merged,
            "int8": int8,
        }
        write_json(folder / "model.json", content)
    return OnnxReport(deployed, difference, len(inputs), costs, merged, int8)


def write_onnx(network: nn.Module, shape: tuple[int, ...], file: Path) -> None:
    """Write a network for inputs ``B, *shape`` with any B: input ``image``, output ``logits``.

    Raises:
        FedHelpError: when torch cannot export it.
    """
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it tells at length which operators of torchvision are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                rewritten(network),
                (torch.zeros(2, *shape),),
                file,
                input_names=["image"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            reason = first_line(error)
            raise FedHelpError(f"the network cannot be written as ONNX ({reason})") from error
        finally:
            exporter.setLevel(level)


def largest_difference(network: nn.Module, file: Path, images: list[Tensor]) -> float:
    """Return the largest difference of a probability between torch and onnxruntime, over batches of different size."""
    session = open_session(file)
    largest = 0.0
    for image in images:
        with torch.inference_mode():
            expected = probabilities(network(image))
        answer = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        largest = max(largest, float((probabilities(answer) - expected).abs().max()))
    return largest


def open_session(file: Path) -> Any:
    """Return a session of onnxruntime on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _require_extra() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed; it comes with `pip install 'fedhelp-med[onnx]'`")


def _noise(shape: tuple[int, ...]) -> list[Tensor]:
    """Return batches of different size."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, *shape, generator=generator) for size in (1, 3)]


def _studies(deployed: Deployed, shape: tuple[int, ...]) -> list[Tensor]:
    """Return the site's own validation studies, each ``1, *shape`` (the middle of larger ones), as far as at hand."""
    if not deployed.datalist.is_file():
        return []
    content = json.loads(deployed.datalist.read_text(encoding="utf-8"))
    paths = [deployed.datalist.parent / item["image"] for item in content.get("validation", [])[:STUDIES]]
    parser: ConfigParser = deployed.parser("inference.json")
    parser["device"] = "cpu"
    parser["preprocessing#transforms"] = preparation(deployed)
    prepare, window = parser.get_parsed_content("preprocessing"), ResizeWithPadOrCrop(shape[1:])
    studies = [prepare({"image": str(path)})["image"] for path in paths if path.exists()]
    fitting = [study for study in studies if study.shape[0] == shape[0] and study.ndim == len(shape)]
    return [torch.as_tensor(np.ascontiguousarray(window(study)))[None].float() for study in fitting]


def _try_merged(deployed: Deployed, judge: Judge, folder: Path, costs: dict[str, Cost]) -> str:
    """Replace several networks by one with their mean weights; keep it only where it does as well."""
    merged = deployed.merged()
    if merged is None:
        return "not possible (one network, or networks of different kinds)"
    file, shape = folder / "model.merged.onnx", merged.input_shape()
    write_onnx(merged.network(), shape, file)
    return _kept("merged", "onnxruntime", judge, file, shape, costs)


def _try_int8(judge: Judge, shape: tuple[int, ...], folder: Path, costs: dict[str, Cost]) -> str:
    """Quantise the merged network where it was kept, else the exact one; keep it only where it is faster still."""
    merged = folder / "model.merged.onnx"
    source, base = (merged, "onnxruntime merged") if merged.is_file() else (folder / "model.onnx", "onnxruntime")
    file = folder / "model.int8.onnx"
    try:
        quantise(source, file, judge.studies)
        open_session(file)
    except Exception as error:  # quantisation knows few operators
        file.unlink(missing_ok=True)
        return f"not possible ({first_line(error)})"
    return _kept("int8", base, judge, file, shape, costs)


def _kept(name: str, base: str, judge: Judge, file: Path, shape: tuple[int, ...], costs: dict[str, Cost]) -> str:
    """Measure a variant against ``base``; remove its file where it is not worth it, and say why."""
    row = f"onnxruntime {name}"
    costs |= measure({row: ("onnx", str(file), json.dumps(shape))})
    kept, figures = judge.verdict(open_session(file), costs[row].milliseconds / costs[base].milliseconds)
    if not kept:
        file.unlink()
    return f"{'kept' if kept else 'not kept'}: {figures}"
