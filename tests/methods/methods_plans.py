"""What a site would execute under a method."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from monai.bundle import ConfigParser

from fedhelp_med.foundation import PublicKnowledge
from fedhelp_med.methods import Role, RolePlan, create_method

BUNDLE = Path(str(files("fedhelp_med"))) / "bundles" / "fedhelp_classification"


class Known(SimpleNamespace):
    """What a server knows of its public set: the attributes that it is given."""

    def speaks_of(self, classes: Sequence[str]) -> bool:
        return PublicKnowledge.speaks_of(self, classes)  # type: ignore[arg-type]


def plan_of(name: str, preset: str, role: Role, **settings: Any) -> RolePlan:
    return create_method(name, preset, settings).plan(role)


def merged(plan: RolePlan) -> ConfigParser:
    """The config that a site executes: the plan's files, its handlers in their place, its overlay on top."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / config) for config in plan.configs])
    parser.update({"method_handlers": [dict(config) for config in plan.handlers], **plan.overlay})
    return parser


def targets(plan: RolePlan) -> list[str]:
    """The names of the handlers of a plan."""
    return [config["_target_"].rpartition(".")[2] for config in plan.handlers]
