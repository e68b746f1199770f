"""A site's personal state as safetensors and JSON: no pickle, exact to the bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError

TENSOR = "__tensor__"
"""Marks the place of a tensor in the JSON part; its value is the tensor's key."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any layout, shared memory included, to ``path`` (inside a folder that is renamed later)."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        storage = whole.untyped_storage()
        # safetensors takes each storage once, and whole.
        if storage.data_ptr() in seen or storage.nbytes() != whole.nbytes:
            whole = whole.clone()
        seen.add(whole.untyped_storage().data_ptr())
        plain[key] = whole
    save_file(plain, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``save_tensors`` wrote.

    Raises:
        FedHelpError: when the file is missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise FedHelpError(f"{path}: cannot be read ({error}); the run folder is damaged, start the run anew") from None


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors, numbers, text, lists and mappings to ``folder``."""
    tensors: dict[str, Tensor] = {}
    outline = _outline(state, "state", tensors)
    save_tensors(folder / "state.safetensors", tensors)
    (folder / "state.json").write_text(json.dumps(outline, indent=1), encoding="utf-8")


def load_state(folder: Path) -> Any:
    """Read what ``save_state`` wrote: tensors on the CPU, bit by bit.

    Raises:
        FedHelpError: when it is missing or damaged.
    """
    try:
        outline = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedHelpError(f"{folder}: has no readable state ({error}); start the run anew") from None
    return _filled(outline, load_tensors(folder / "state.safetensors"))


def _outline(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[key] = value
        return {TENSOR: key}
    if isinstance(value, Mapping):
        # JSON turns integer keys (an optimiser's parameters) into text: keep pairs.
        return {"__pairs__": [[k, _outline(v, f"{key}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_outline(entry, f"{key}/{index}", tensors) for index, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{key}: a {type(value).__name__} cannot be kept in a site's state")


def _filled(outline: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(outline, dict):
        if TENSOR in outline:
            return tensors[outline[TENSOR]]
        return {key: _filled(value, tensors) for key, value in outline["__pairs__"]}
    if isinstance(outline, list):
        return [_filled(entry, tensors) for entry in outline]
    return outline
