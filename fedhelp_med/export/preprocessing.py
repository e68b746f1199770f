"""What has to be done to an image before and after a network, in words and numbers that need no MONAI."""

from collections.abc import Callable, Mapping
from typing import Any

from monai.utils import ensure_tuple

from fedhelp_med.common.errors import InputError
from fedhelp_med.export.deployed import Deployed

Arguments = Mapping[str, Any]
VALIDATION = "validate#preprocessing"


def describe(deployed: Deployed) -> dict[str, Any]:
    """Return the steps from an image file to a result.

    Each step has its MONAI ``_target_`` with resolved arguments, and a sentence that says what it does where it is a
    known one. The first is the loader of the site's own images. Steps that only serve MONAI (types, metadata, writing
    files) are left out.
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
        "preprocessing": _steps(resolved, preparation(deployed)),
        "inference": inference,
        "output": {"name": "logits", "dtype": "float32", "classes": classes},
        "postprocessing": _steps(resolved, parser["postprocessing"]["transforms"]),
    }


def preparation(deployed: Deployed) -> list[dict[str, Any]]:
    """Return the config of the transforms of ``inference.json``, with the loader of the site's own images.

    A bundle's ``inference.json`` may load with MONAI alone, which reads DICOM in another way than ``LoadStudy`` does.
    """
    transforms: list[dict[str, Any]] = deployed.parser("inference.json")["preprocessing"]["transforms"]
    own = next((t for t in _image_transforms(deployed, "train.json", VALIDATION) if _name(t) in LOADERS), None)
    if own is None:
        return transforms
    return [{**own, "keys": "image"} if _name(transform) in LOADERS else transform for transform in transforms]


def check_preparation(deployed: Deployed) -> None:
    """Refuse a bundle that prepares images for inference by other transforms than for validation.

    The names of the transforms are compared, in their order; their arguments are not.

    Raises:
        InputError: naming both.
    """
    used, written = (
        [name for name in map(_name, _image_transforms(deployed, config, id)) if name not in NO_CHANGE]
        for config, id in (("train.json", VALIDATION), ("inference.json", "preprocessing"))
    )
    if used and used != written:
        raise InputError(
            f"{deployed.bundle}: configs/inference.json prepares images by {', '.join(written) or 'nothing'}, but "
            f"{VALIDATION} of configs/train.json, which the site's results are from, by {', '.join(used)}; make "
            "inference.json the same, or what is exported sees other images than the network learned from"
        )


def _image_transforms(deployed: Deployed, config: str, id: str) -> list[dict[str, Any]]:
    """Return the config of the transforms under ``id`` that concern the image and are not disabled."""
    parser = deployed.parser(config)
    parser.resolve_macro_and_relative_ids()
    transforms = parser.get(f"{id}#transforms")
    found = []
    for transform in transforms if isinstance(transforms, list) else []:
        settings = {key: transform[key] for key in ("keys", "_disabled_") if key in transform}
        settings = {"keys": "image"} | _arguments(parser, settings)
        if "image" in ensure_tuple(settings["keys"]) and not settings.get("_disabled_", False):
            found.append(transform)
    return found


def _name(transform: Mapping[str, Any]) -> str:
    return str(transform["_target_"]).rpartition(".")[2].removesuffix("d")


def _steps(parser: Any, transforms: list[Any]) -> list[dict[str, Any]]:
    steps = []
    for transform in transforms:
        arguments = _arguments(parser, transform)
        name = _name(arguments)
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


READ = "read the array; the axes of PNG and JPEG are (column, row), those of NIfTI as stored"


def _load_study(arguments: Arguments) -> str:
    rules = [
        "the axes are (column, row, slice), the slices of a series in the ascending order of their position along the "
        "normal of row and column, whatever their names and instance numbers",
        "values are rescaled by slope and intercept or the modality LUT (CT: HU)",
    ]
    if arguments.get("voi"):
        rules.append("the file's window or VOI LUT is applied")
    if arguments.get("invert", True):
        rules.append("MONOCHROME1 is turned over, so that more is brighter")
    rules.append("palettes become colours")
    if arguments.get("padding", "minimum") == "minimum":
        rules.append("padding pixels become the smallest other value of the image")
    return f"{READ}; of DICOM {'; '.join(rules)}"


SENTENCES: Mapping[str, Callable[[Arguments], str]] = {
    "LoadImage": lambda _: READ,
    "LoadStudy": _load_study,
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
LOADERS = ("LoadImage", "LoadStudy")
NO_CHANGE = (*LOADERS, "CheckStudy", "DeleteItems", "EnsureType", "Identity", "SelectItems", "ToDevice", "ToTensor")
"""Transforms that leave the pixels as they are, or are compared by no name."""
