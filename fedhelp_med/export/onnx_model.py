"""A site's deployed network for onnxruntime: float32, checked against torch, int8 only where that is faster."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import replacing_folder, write_json
from fedhelp_med.export.bundle import check_empty
from fedhelp_med.export.deployed import Deployed, read_deployed
from fedhelp_med.export.preprocessing import describe

OPSET = 20
TOLERANCE = 1e-4
"""The largest difference of a probability between torch and onnxruntime that is accepted in float32."""

INT8_TOLERANCE = 0.02
INT8_GAIN = 0.9
"""An int8 model is kept when it takes at most this share of float32's time, within ``INT8_TOLERANCE``."""

STUDIES = 16
"""How many of the site's own studies are compared, where they are at hand."""


@dataclass(frozen=True)
class Cost:
    """What one answer costs in a process of its own, on one core.

    Args:
        milliseconds: the median time of one image or window.
        megabytes: the peak memory of the process, libraries included.
    """

    milliseconds: float
    megabytes: float


@dataclass(frozen=True)
class OnnxReport:
    """What was written and how it compares.

    Args:
        deployed: the site's networks.
        difference: the largest difference of a probability to torch.
        compared: how many images and noise arrays were compared.
        costs: by ``torch``, ``onnxruntime`` and ``onnxruntime int8``.
        int8: why int8 was kept or not.
    """

    deployed: Deployed
    difference: float
    compared: int
    costs: Mapping[str, Cost]
    int8: str


def export_onnx(run: Path, site: str, out: Path) -> OnnxReport:
    """Write ``model.onnx`` and ``model.json`` of a finished site to ``out``.

    Raises:
        InputError: when the extra is missing, the run has no such deployed network, or ``out`` is not empty.
        FedHelpError: when onnxruntime does not give torch's answers.
    """
    _require_extra()
    check_empty(out)
    deployed = read_deployed(run, site)
    network, shape = deployed.network(), deployed.input_shape()
    with replacing_folder(out.absolute()) as folder:
        file = folder / "model.onnx"
        write_onnx(network, shape, file)
        images = _images(deployed, shape)
        difference = largest_difference(network, file, images)
        if not difference <= TOLERANCE:
            raise FedHelpError(f"{site}: onnxruntime's probabilities differ from torch's by {difference:.2g}")
        costs = _costs({"torch": ("torch", str(run), site), "onnxruntime": ("onnx", str(file), json.dumps(shape))})
        int8 = _try_int8(network, shape, file, images, costs)
        content = describe(deployed) | {
            "site": site,
            "networks": list(deployed.names),
            "opset": OPSET,
            "tolerance": {"probability": TOLERANCE, "measured": difference},
            "cost": {name: vars(cost) for name, cost in costs.items()},
            "int8": int8,
        }
        write_json(folder / "model.json", content)
    return OnnxReport(deployed, difference, len(images), costs, int8)


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
                network,
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
            reason = str(error).strip().splitlines()[0]
            raise FedHelpError(f"the network cannot be written as ONNX ({reason})") from error
        finally:
            exporter.setLevel(level)


def largest_difference(network: nn.Module, file: Path, images: list[Tensor]) -> float:
    """Return the largest difference of a probability between torch and onnxruntime, over batches of different size."""
    session = open_session(file)
    largest = 0.0
    for image in images:
        with torch.inference_mode():
            expected = _probabilities(network(image))
        answer = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        largest = max(largest, float((_probabilities(answer) - expected).abs().max()))
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


def _probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _images(deployed: Deployed, shape: tuple[int, ...]) -> list[Tensor]:
    """Return batches of noise of different size, and the site's own validation studies where they can be read."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, *shape, generator=generator) for size in (1, 3)]
    if not deployed.datalist.is_file():
        return images
    content = json.loads(deployed.datalist.read_text(encoding="utf-8"))
    paths = [deployed.datalist.parent / item["image"] for item in content.get("validation", [])[:STUDIES]]
    parser: ConfigParser = deployed.parser("inference.json")
    parser["device"] = "cpu"
    prepare = parser.get_parsed_content("preprocessing")
    studies = [torch.as_tensor(np.asarray(prepare({"image": str(path)})["image"])) for path in paths if path.is_file()]
    return images + [study[None].float() for study in studies if tuple(study.shape) == shape]


def _try_int8(
    network: nn.Module, shape: tuple[int, ...], file: Path, images: list[Tensor], costs: dict[str, Cost]
) -> str:
    """Quantise the weights; keep the file only where it is faster than float32 and says the same."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, small = file.with_suffix(".prepared.onnx"), file.with_name("model.int8.onnx")
    try:
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, small)
        difference = largest_difference(network, small, images)
    except Exception as error:  # quantisation knows few operators
        small.unlink(missing_ok=True)
        return f"not possible ({str(error).strip().splitlines()[0]})"
    finally:
        prepared.unlink(missing_ok=True)
    costs |= _costs({"onnxruntime int8": ("onnx", str(small), json.dumps(shape))})
    share = costs["onnxruntime int8"].milliseconds / costs["onnxruntime"].milliseconds
    found = f"{share:.2f} of float32's time, probabilities differ by up to {difference:.3f}"
    if share <= INT8_GAIN and difference <= INT8_TOLERANCE:
        return f"kept: {found}"
    small.unlink()
    return f"not kept: {found}"


def _costs(commands: Mapping[str, tuple[str, ...]], repeats: int = 3) -> dict[str, Cost]:
    """Measure in processes of their own, in turn, so that a noisy machine slows all alike."""
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(_measured(command))
    return {
        name: Cost(
            round(median(cost.milliseconds for cost in costs), 3), round(median(cost.megabytes for cost in costs), 1)
        )
        for name, costs in found.items()
    }


def _measured(command: tuple[str, ...]) -> Cost:
    done = subprocess.run(
        [sys.executable, "-m", "fedhelp_med.export.measure", *command],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise FedHelpError(f"the measurement of {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))
