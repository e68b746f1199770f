"""Federated methods, one file each, found by the name that stands in the federation file."""

from collections.abc import Mapping
from typing import Any

from fedhelp_med.methods.ablations import BackwardAsKL, LabelsOnly, WithoutBackward, WithoutForward, WithoutGuidance
from fedhelp_med.methods.base import ROLES, Exchange, Method, Role, RolePlan, Server, Settings, handler
from fedhelp_med.methods.fedavg import FedAvg
from fedhelp_med.methods.fedavg_public import FedAvgPublic
from fedhelp_med.methods.fedbn import FedBN
from fedhelp_med.methods.fedhelp import FedHelp
from fedhelp_med.methods.fedmd import FedMD
from fedhelp_med.methods.fedprox import FedProx
from fedhelp_med.methods.fml import FML
from fedhelp_med.methods.local import Local
from fedhelp_med.methods.local_public import LocalPublic

METHODS: Mapping[str, type[Method]] = {
    method.name: method
    for method in (
        FedHelp,
        Local,
        LocalPublic,
        FedAvg,
        FedAvgPublic,
        FedProx,
        FedBN,
        FML,
        FedMD,
        WithoutGuidance,
        WithoutForward,
        WithoutBackward,
        BackwardAsKL,
        LabelsOnly,
    )
}

__all__ = [
    "METHODS",
    "ROLES",
    "Exchange",
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
