"""A foundation model that runs on this machine: any module, a TorchScript file, or a MONAI bundle."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from fedhelp_med.common.errors import FedHelpError, InputError, first_line
from fedhelp_med.foundation.protocol import KINDS, Array, InputSpec, Kind

DESCRIPTION = "foundation.json"
REQUIRED = ("name", "version", "classes", "input", "torchscript")
OPTIONAL = ("kind", "provenance")


class LocalFoundationModel:
    """A module of this process as a foundation model.

    Args:
        module: takes float32 `B, C, W, H[, D]` and gives logits or an embedding. It is set to evaluation mode.
        name: the model's name.
        version: its version; other weights must have another one.
        classes: its classes, in the order of the channels of its answer.
        input: the image it takes.
        kind: what an answer is.
        device: where it runs.

    Example:
        >>> spec = InputSpec(channels=1, size=(8, 8))
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> model = LocalFoundationModel(net, name="tiny", version="1", classes=("no", "yes"), input=spec)
        >>> model.predict(np.zeros((3, 1, 8, 8), dtype=np.float32)).shape
        (3, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        version: str,
        classes: tuple[str, ...],
        input: InputSpec,
        kind: Kind = "logits",
        device: str | torch.device = "cpu",
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}: use one of {', '.join(KINDS)}")
        self.name = name
        self.version = version
        self.classes = tuple(classes)
        self.input = input
        self.kind: Kind = kind
        self.device = torch.device(device)
        self.module = module.to(self.device).eval()

    def predict(self, batch: Array) -> Array:
        """Answer a batch, float32 `B, C, W, H[, D]`, with float32 `B, K[, W, H[, D]]`.

        Raises:
            FedHelpError: if the batch has another shape than the input, or the module fails or gives no tensor.
        """
        if tuple(batch.shape[1:]) != self.input.shape:
            raise FedHelpError(
                f"foundation model {self.name} takes images of shape {self.input.shape}, not {tuple(batch.shape[1:])}"
            )
        try:
            with torch.inference_mode():
                answer = self.module(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise FedHelpError(f"foundation model {self.name} failed on {len(batch)} images: {reason}") from error
        if not isinstance(answer, torch.Tensor):
            raise FedHelpError(f"foundation model {self.name} answered with {type(answer).__name__}, not a tensor")
        result: Array = answer.to("cpu", torch.float32).numpy()
        return result


def load_local_model(path: Path, device: str | torch.device = "cpu") -> LocalFoundationModel:
    """Load a foundation model from a description or a MONAI bundle.

    Args:
        path: a ``foundation.json`` (or its folder) that names a TorchScript file beside it, or the folder of a
            MONAI bundle. The files can run code: load only what you trust.
        device: where it runs.

    Returns:
        The model. Its version ends in a hash of the weights, so that a changed file is another model.

    Raises:
        InputError: if a piece is missing or broken.
    """
    path = Path(path)
    if path.is_dir() and (path / DESCRIPTION).is_file():
        path = path / DESCRIPTION
    if path.is_file():
        return _load_torchscript(path, device)
    if (path / "configs").is_dir():
        return _load_bundle(path, device)
    if not path.exists():
        raise InputError(f"the foundation model {path} does not exist: give a {DESCRIPTION} or a MONAI bundle folder")
    raise InputError(f"{path} is no foundation model: it has neither {DESCRIPTION} nor configs/inference.json")


def _load_torchscript(path: Path, device: str | torch.device) -> LocalFoundationModel:
    content = _read_json(path)
    for key in REQUIRED:
        if key not in content:
            raise InputError(f"{path} lacks {key!r}: it needs name, version, classes, input and torchscript")
    for key in content:
        if key not in REQUIRED + OPTIONAL:
            raise InputError(
                f"{path}: unknown key {key!r}: a model on this machine has {', '.join(REQUIRED + OPTIONAL)}; "
                'a service says "kind": "oip" or "rest"'
            )
    file = path.parent / str(content["torchscript"])
    if not file.is_file():
        raise InputError(f"{path}: torchscript is {content['torchscript']!r}, but {file} does not exist")
    classes = content["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: classes is {classes!r}: give a list of names")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit: still the format of MONAI's model.ts
            module = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"{file} is no TorchScript file that this torch can read: export it again") from error
    return LocalFoundationModel(
        module,
        name=str(content["name"]),
        version=_version(content["version"], digest),
        classes=tuple(classes),
        input=_input(path, content["input"]),
        kind=content.get("kind", "logits"),
        device=device,
    )


def _load_bundle(folder: Path, device: str | torch.device) -> LocalFoundationModel:
    config, metadata = folder / "configs" / "inference.json", folder / "configs" / "metadata.json"
    weights = folder / "models" / "model.pt"
    content, meta = _read_json(config), _read_json(metadata)
    if not weights.is_file():
        raise InputError(f"the bundle {folder} has no models/model.pt: download or train its weights")
    if "network_def" not in content:
        raise InputError(f"{config} has no network_def: the toolkit cannot build the network of this bundle")
    parser = ConfigParser(content)
    parser["bundle_root"], parser["device"] = str(folder), str(device)
    try:
        network = parser.get_parsed_content("network_def")
        state = torch.load(weights, map_location=device, weights_only=True)
        network.load_state_dict(state["model"] if set(state) == {"model"} else state)  # as Ignite saves it, or bare
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, ImportError, EOFError) as error:
        reason = first_line(error)
        raise InputError(f"the bundle {folder}: models/model.pt does not fit network_def ({reason})") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{weights} holds more than weights, or is damaged: save its state_dict again") from error
    with weights.open("rb") as stream:
        hashed = hashlib.file_digest(stream, "sha256")
    hashed.update(json.dumps(content["network_def"], sort_keys=True).encode())  # other layers, same weights
    classes, spec, kind = _data_format(metadata, meta)
    return LocalFoundationModel(
        network,
        name=str(meta.get("name", folder.resolve().name)),
        version=_version(meta.get("version", "0"), hashed.hexdigest()),
        classes=classes,
        input=spec,
        kind=kind,
        device=device,
    )


def _data_format(file: Path, meta: Mapping[str, Any]) -> tuple[tuple[str, ...], InputSpec, Kind]:
    """Return classes, input and kind of a bundle from the first input and output of its network_data_format."""
    try:
        given = next(iter(meta["network_data_format"]["inputs"].values()))
        gives = next(iter(meta["network_data_format"]["outputs"].values()))
        names = {int(index): str(name) for index, name in gives["channel_def"].items()}
        channels, size = given["num_channels"], list(given["spatial_shape"])
        outputs = gives["num_channels"]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{file}: network_data_format is incomplete ({error}): it needs inputs with num_channels and "
            "spatial_shape, and outputs with num_channels and channel_def"
        ) from None
    if outputs != len(names) or sorted(names) != list(range(len(names))):
        raise InputError(f"{file}: outputs has {outputs} channels, but channel_def names {sorted(names)}: name each")
    value_range = given.get("value_range") or (0.0, 1.0)
    spec = _input(file, {"channels": channels, "size": size, "value_range": value_range})
    kind: Kind = "mask logits" if gives.get("format") == "segmentation" else "logits"
    return tuple(names[index] for index in sorted(names)), spec, kind


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): it describes the foundation model") from None
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}): correct or export it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}: a description is a JSON object")
    return content


def _input(file: Path, content: object) -> InputSpec:
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: input is {content!r}: give channels, size and value_range")
    try:
        return InputSpec.from_dict(content)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _version(version: object, digest: str) -> str:
    return f"{version}+sha256.{digest[:16]}"
