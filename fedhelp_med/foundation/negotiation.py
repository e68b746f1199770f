"""What an Open Inference Protocol server says about a model, against what its description says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.protocol import Described

FLOATS: dict[str, DTypeLike] = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
BINARY = "binary_tensor_data"  # the server extensions that matter here
CONFIGURATION = "model_configuration"


@dataclass(frozen=True)
class Contract:
    """How a model is asked.

    Attributes:
        binary: whether tensors follow the JSON as bytes, or are part of it.
        path: of the model, below the server's url.
        input_name: of its input tensor.
        datatype: of the input, as the protocol calls it.
        output_name: of the output tensor that is taken.
        batched: whether tensors begin with an axis of images; else images are sent one by one.
        limit: images per request at most, None for any number.
    """

    binary: bool
    path: str
    input_name: str
    datatype: str
    output_name: str
    batched: bool
    limit: int | None


def model_path(model: str, version: str, metadata: Mapping[str, Any]) -> str:
    """Return the path of one version of a model; of the model, where the server does not tell versions apart.

    Raises:
        InputError: if the server has other versions only.
    """
    versions = [str(known) for known in metadata.get("versions") or []]
    if versions and version not in versions:
        raise InputError(f"model {model}: version is {version!r}, the server has {', '.join(versions)}: name one")
    return f"/v2/models/{model}/versions/{version}" if versions else f"/v2/models/{model}"


def negotiate(
    model: Described,
    path: str,
    extensions: Sequence[str],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    size: Sequence[int],
    input_name: str | None = None,
    output_name: str | None = None,
) -> Contract:
    """Return how a model is asked, or say where it is another one than described.

    Args:
        model: its description.
        path: its path.
        extensions: of the protocol, that the server offers.
        metadata: the model's, as the server gives them.
        config: the model's configuration (empty where the server gives none).
        size: spatial size in the axis order of the server.
        input_name: its input, where it has several or the metadata name none.
        output_name: its output, likewise.

    Raises:
        InputError: if input, output or batch do not fit the description.
    """
    who = f"model {model.name}"
    given = _choose(who, "input", metadata.get("inputs") or [], input_name)
    taken = _choose(who, "output", metadata.get("outputs") or [], output_name)
    datatype = str(given.get("datatype", "FP32"))
    if datatype not in FLOATS:
        raise InputError(f"{who}: its input {given['name']} takes {datatype}: serve it with one of {', '.join(FLOATS)}")
    if datatype == "FP16" and max(map(abs, model.input.value_range)) > float(np.finfo(np.float16).max):
        raise InputError(f"{who}: input.value_range is {model.input.value_range}, more than its FP16 input can hold")
    image = (model.input.channels, *size)
    batched, fixed = _input_shape(who, given, image)
    _check_output(who, taken, model, batched)
    largest = int(config.get("max_batch_size") or 0) or fixed
    return Contract(
        binary=BINARY in extensions,
        path=path,
        input_name=str(given["name"]),
        datatype=datatype,
        output_name=str(taken["name"]),
        batched=batched,
        limit=largest if batched else 1,
    )


def _choose(who: str, what: str, tensors: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    if not tensors:
        if name is None:
            raise InputError(f"{who}: the server does not name its {what}: give {what}_name")
        return {"name": name}
    names = [str(tensor["name"]) for tensor in tensors]
    if name is None and len(names) > 1:
        raise InputError(f"{who}: it has the {what}s {', '.join(names)}: choose one with {what}_name")
    if name is not None and name not in names:
        raise InputError(f"{who}: {what}_name is {name!r}, the server has {', '.join(names)}")
    return tensors[names.index(name)] if name is not None else tensors[0]


def _input_shape(who: str, tensor: Mapping[str, Any], image: tuple[int, ...]) -> tuple[bool, int | None]:
    """Return whether the input has an axis of images, and its length where that is fixed."""
    shape = [int(length) for length in tensor.get("shape") or [-1] * (len(image) + 1)]
    axes = shape[-len(image) :]
    if len(shape) not in (len(image), len(image) + 1):
        raise InputError(
            f"{who}: its input {tensor['name']} has shape {_text(shape)}, an image {_text(image)}: "
            "correct input in the description"
        )
    if axes[0] not in (-1, image[0]):
        hint = "serve it with channels first" if axes[-1] == image[0] else "correct input.channels in the description"
        raise InputError(
            f"{who}: its input {tensor['name']} has shape {_text(shape)}, {axes[0]} channels and not {image[0]}: {hint}"
        )
    if any(length not in (-1, wanted) for length, wanted in zip(axes, image, strict=True)):
        raise InputError(
            f"{who}: its input {tensor['name']} takes images of {_text(axes)}, not {_text(image)}: "
            "correct input.size in the description"
        )
    if len(shape) == len(image):
        return False, None
    if shape[0] > 1:
        raise InputError(f"{who}: it takes exactly {shape[0]} images at a time: serve it with a free batch axis")
    return True, shape[0] if shape[0] == 1 else None


def _check_output(who: str, tensor: Mapping[str, Any], model: Described, batched: bool) -> None:
    shape = [int(length) for length in tensor.get("shape") or []]
    if not shape:
        return
    axes = batched + 1 + len(model.input.size) * (model.kind == "mask logits")
    if len(shape) != axes:
        raise InputError(
            f"{who}: its output {tensor['name']} has shape {_text(shape)}, {model.kind} have {axes} axes: "
            "correct knowledge or output_name in the description"
        )
    channels = shape[int(batched)]
    if model.classes and channels not in (-1, len(model.classes)):
        raise InputError(
            f"{who}: its output {tensor['name']} has {channels} channels, the description {len(model.classes)} classes "
            f"({', '.join(model.classes)}): correct classes"
        )


def _text(shape: Sequence[int]) -> str:
    return " x ".join("?" if length == -1 else str(length) for length in shape)
