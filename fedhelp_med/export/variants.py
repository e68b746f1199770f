"""Smaller forms of a deployed network: one in place of several, and int8. Each has to earn its place."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedhelp_med.export.scoring import SessionNetwork

GAIN = 0.9
"""A variant is kept when it takes at most this share of the time of what it is made from,"""

LOSS = 0.5
"""when the score on the site's validation studies loses less than so many points (of 100),"""

DIFFERENCE = 0.02
"""and when a probability of those studies differs by at most so much on average."""

HEAVY = 0.1
"""Convolutions with at least this share of all multiplications are quantised; the rest would pay for converting."""


@dataclass(frozen=True)
class Judge:
    """Compares a variant with the deployed network in torch.

    Args:
        network: the deployed one.
        studies: the site's validation studies as it sees them, each ``1, C, spatial``.
        score: of a network on the whole validation split, 0 to 1; None where that cannot be had.
    """

    network: nn.Module
    studies: list[Tensor]
    score: Callable[[nn.Module], float] | None

    def verdict(self, session: Any, share: float) -> tuple[bool, str]:
        """Return whether a variant is kept, and the figures.

        Args:
            session: onnxruntime's, of the variant.
            share: of the time of what it was made from.
        """
        if self.score is None or not self.studies:
            return False, "no labelled validation studies at hand to judge it by"
        variant = SessionNetwork(session)
        loss = 100 * (self.score(self.network) - self.score(variant))
        with torch.inference_mode():
            gaps = [(probabilities(variant(x)) - probabilities(self.network(x))).abs().mean() for x in self.studies]
        difference = float(torch.stack(gaps).mean())
        kept = share <= GAIN and loss < LOSS and difference <= DIFFERENCE  # a score that is NaN keeps nothing
        change = f"{round(-loss, 2) + 0.0:+.2f} points of validation score"  # no -0.00
        return kept, f"{share:.2f} of the time, {change}, probabilities differ by {difference:.4f} on average"


def probabilities(logits: Tensor) -> Tensor:
    """Return softmax or, of one channel, sigmoid."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def quantise(file: Path, out: Path, studies: list[Tensor]) -> None:
    """Write a copy of the model ``file`` whose heavy convolutions compute in int8.

    Static, calibrated on ``studies``, weights per channel. Weights use 7 of their 8 bits: processors without VNNI add
    two products in 16 bits, which overflows otherwise, and the file may be meant for one.

    Raises:
        ValueError: without studies, or when no convolution is heavy.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Studies(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(studies)

        def get_next(self) -> dict[str, Any] | None:
            study = next(self.rest, None)
            return None if study is None else {"image": study.numpy()}

    if not studies:
        raise ValueError("no validation study to calibrate on")
    prepared = out.with_suffix(".prepared.onnx")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it gives advice there
    try:
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        nodes = heavy_convolutions(prepared)
        if not nodes:
            raise ValueError("it has no heavy convolution")
        quantize_static(
            prepared,
            out,
            Studies(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
        )
    finally:
        root.setLevel(level)
        prepared.unlink(missing_ok=True)


def heavy_convolutions(file: Path, share: float = HEAVY) -> list[str]:
    """Return the names of the convolutions of an ONNX file with at least ``share`` of all multiplications."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
    sizes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {initializer.name: initializer.dims for initializer in graph.initializer}
    work = {
        node.name: prod(weights[node.input[1]]) * prod(sizes[node.output[0]][2:])
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in weights and node.output[0] in sizes
    }
    return [name for name, count in work.items() if count >= share * sum(work.values())]
