"""Federated methods, one file each, found by the name that stands in the federation file."""

from collections.abc import Mapping
from typing import Any

from fedhelp_med.methods.base import ROLES, Method, Role, RolePlan, Server, Settings, handler
from fedhelp_med.methods.fedavg import FedAvg
from fedhelp_med.methods.fedhelp import FedHelp
from fedhelp_med.methods.local import Local

METHODS: Mapping[str, type[Method]] = {method.name: method for method in (FedHelp, FedAvg, Local)}

__all__ = [
    "METHODS",
    "ROLES",
    "FedAvg",
    "FedHelp",
    "Local",
    "Method",
    "Role",
    "RolePlan",
    "Server",
    "Settings",
    "create_method",
    "handler",
]


def create_method(name: str, preset: str, settings: Mapping[str, Any]) -> Method:
    """Build the method ``name`` with the values of ``preset``, over which ``settings`` go.

    Raises:
        KeyError: for an unknown name or preset.
        pydantic.ValidationError: for unknown or unsuitable settings.
    """
    method = METHODS[name]
    return method(method.settings_type(**{**method.presets[preset], **settings}))
