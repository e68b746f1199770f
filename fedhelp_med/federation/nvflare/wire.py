"""What travels between NVFlare's server and a site, as plain values and arrays: no pickle."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedhelp_med.federation.deployment import Choice
from fedhelp_med.federation.site_messages import SiteReport
from fedhelp_med.federation.workspace import Row

REQUEST = "fedhelp_request"
"""Key of a task's ``meta``: what the site has to do, as JSON."""

REPORT = "fedhelp_report"
"""Key of a result's ``meta``: what the site tells, as JSON."""

WEIGHTS = {"weights": True}
"""Stands for the file of weights that travel beside the request."""


def pack_arguments(arguments: tuple[Any, ...], site: str) -> tuple[list[Any], Path | None]:
    """Return a step's arguments as plain values for one site, and the file of weights among them.

    Of a mapping by site only the site's own part is sent.
    """
    packed: list[Any] = []
    weights: Path | None = None
    for argument in arguments:
        if isinstance(argument, Path):
            weights = argument
            packed.append(WEIGHTS)
        elif isinstance(argument, Mapping):
            packed.append({"own": argument.get(site, {})})
        else:
            packed.append(argument)
    return packed, weights


def unpack_arguments(packed: list[Any], site: str, weights: Path | None) -> list[Any]:
    """Return the arguments of a step at a site; ``weights`` is where what came beside them was stored."""
    arguments: list[Any] = []
    for argument in packed:
        if argument == WEIGHTS:
            arguments.append(weights)
        elif isinstance(argument, dict):
            arguments.append({site: argument["own"]})
        else:
            arguments.append(argument)
    return arguments


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Return tensors as arrays, exact to the bit."""
    return {key: tensor.detach().cpu().numpy() for key, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """Return arrays as tensors that own their memory."""
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def pack_report(report: SiteReport) -> dict[str, Any]:
    """Return a report as plain values."""
    return dataclasses.asdict(report)


def unpack_report(packed: Mapping[str, Any]) -> SiteReport:
    """Return the report that ``pack_report`` packed."""
    values = dict(packed)
    values["rows"] = [Row(**row) for row in values["rows"]]
    values["counts"] = [(int(right), int(there)) for right, there in values["counts"]]
    if values["choice"] is not None:
        choice = values["choice"]
        values["choice"] = Choice(tuple(choice["networks"]), choice["default"], choice["evidence"])
    return SiteReport(**values)
