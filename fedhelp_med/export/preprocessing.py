"""What has to be done to an image before and after a network, in words and numbers that need no MONAI."""

from collections.abc import Callable, Mapping
from typing import Any

from fedhelp_med.export.deployed import Deployed

Arguments = Mapping[str, Any]


def describe(deployed: Deployed) -> dict[str, Any]:
    """Return the steps from an image file to a result.

    Each step has its MONAI ``_target_`` with resolved arguments, and a sentence that says what it does where it is a
    known one. Steps that only serve MONAI (types, metadata, writing files) are left out.
    """
    parser = deployed.parser("inference.json")
    resolved = deployed.parser("inference.json")
    resolved["network_def"] = None  # not needed for numbers
    channels, *spatial = deployed.input_shape()
    classes = [str(name) for name in parser.get_parsed_content("class_names")]
    window = _arguments(resolved, parser["inferer"])
    inference: dict[str, Any] = {"mode": "whole image"}
    if "SlidingWindow" in window["_target_"]:
        inference = {
            "mode": "sliding window",
            "window": spatial,
            "overlap": window.get("overlap", 0.25),
            "does": "cut the image into overlapping windows (zeros where it is smaller), and average the logits where "
            "windows overlap",
        }
    return {
        "input": {"name": "image", "dtype": "float32", "axes": "batch, channel, space", "shape": ["batch", channels]}
        | {"spatial": spatial},
        "preprocessing": _steps(resolved, parser["preprocessing"]["transforms"]),
        "inference": inference,
        "output": {"name": "logits", "dtype": "float32", "classes": classes},
        "postprocessing": _steps(resolved, parser["postprocessing"]["transforms"]),
    }


def _steps(parser: Any, transforms: list[Any]) -> list[dict[str, Any]]:
    steps = []
    for transform in transforms:
        arguments = _arguments(parser, transform)
        name = arguments["_target_"].split(".")[-1].removesuffix("d")
        if arguments.pop("_disabled_", False) or name in SILENT:
            continue
        step = {key: value for key, value in arguments.items() if key not in ("keys", "device", "transform")}
        steps.append(step | ({"does": SENTENCES[name](arguments)} if name in SENTENCES else {}))
    return steps


def _arguments(parser: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component's arguments with references resolved to plain values; what is not plain stays as written."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        plain = value
        if isinstance(value, str) and value.startswith(("@", "$")):
            parser["_argument_"] = value
            plain = parser.get_parsed_content("_argument_")
        found[key] = plain if isinstance(plain, bool | int | float | str | list | None) else value
    return found


def _channel_first(arguments: Arguments) -> str:
    if arguments.get("channel_dim") == "no_channel":
        return "put a channel axis of length 1 in front"
    return f"move the axis {arguments.get('channel_dim')} to the front: it holds the channels"


def _resize(arguments: Arguments) -> str:
    size = " x ".join(str(n) for n in arguments["spatial_size"])
    if arguments.get("mode") != "area":
        return f"resize each channel to {size}"
    return (
        f"resize each channel to {size} by area: along an axis of n pixels resized to m, pixel i of the result is the "
        "mean of the pixels floor(i n / m) up to, and without, ceil((i + 1) n / m)"
    )


def _activation(arguments: Arguments) -> str:
    if arguments.get("softmax"):
        return "softmax over the channels: probabilities of the classes"
    return "sigmoid: the probability of the last class" if arguments.get("sigmoid") else "as named"


SENTENCES: Mapping[str, Callable[[Arguments], str]] = {
    "LoadImage": lambda _: "read the array; the axes of PNG and JPEG are (column, row), those of NIfTI as stored",
    "EnsureChannelFirst": _channel_first,
    "Resize": _resize,
    "NormalizeIntensity": lambda _: (
        "subtract the mean of the whole image and divide by its standard deviation (by 1 where that is 0)"
    ),
    "Activations": _activation,
    "AsDiscrete": lambda _: "the class of the largest probability, at each position",
    "Invert": lambda _: "resize the probabilities back to the image's own size",
}

SILENT = ("EnsureType", "Lambda", "SaveImage")
