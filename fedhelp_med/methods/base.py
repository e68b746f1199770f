"""What a federated method is: per role its networks and its handlers, what is exchanged, how it is aggregated.

A method never touches an engine. It names the bundle's config files that make a role and adds an overlay of MONAI
config, so that everything a site executes can be read in ``sites/NAME/config.json``, and so that MONAI's own
``MonaiAlgo`` can execute it too.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

Role = Literal["small", "large"]
ROLES: tuple[Role, ...] = ("small", "large")

TRAIN = "configs/train.json"
TRAIN_LARGE = "configs/train_large.json"


@dataclass(frozen=True)
class RolePlan:
    """What a site of one role executes.

    Args:
        trained: what its trainer's ``network`` is called in ``metrics.csv``: ``surrogate``, ``proxy`` or ``local``.
        configs: the bundle's config files, in order, relative to the bundle.
        handlers: MONAI config of the handlers that the method adds, in order (the bundle's ``method_handlers``).
        overlay: further MONAI config on top, by id (``train#trainer#max_epochs``).
        personal: the names of personal networks that the trainer owns besides (``large``).
        deployed: the networks that the site would use; several are averaged in probability.
    """

    trained: str
    configs: tuple[str, ...] = (TRAIN,)
    handlers: tuple[Mapping[str, Any], ...] = ()
    overlay: Mapping[str, Any] = field(default_factory=dict)
    personal: tuple[str, ...] = ()
    deployed: tuple[str, ...] = ()


class Server(Protocol):
    """What the server's steps of a method may use."""

    @property
    def round(self) -> int:
        """The number of the round that was just aggregated; 0 before the first."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The current global weights; a step may replace them."""

    @weights.setter
    def weights(self, weights: dict[str, Tensor]) -> None: ...

    def record(self, event: str, **details: Any) -> None:
        """Write a line to ``events.jsonl``."""


class Settings(BaseModel):
    """A method's settings; the federation file's ``settings`` are checked against them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(ABC):
    """A federated method. A subclass is one file in this folder and is found by its ``name``.

    Args:
        settings: an instance of the subclass's ``Settings``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "recommended": {}}
    """Values of the settings under each preset; what the federation file says goes before them."""

    exchanges: ClassVar[bool] = True
    """Whether weights travel at all."""

    keeps_optimizer: ClassVar[bool] = False
    """Whether the state of the exchanged network's optimiser survives a round (the personal one's always does)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def plan(self, role: Role) -> RolePlan:
        """Return what a site of ``role`` executes."""

    def before_first_round(self, server: Server) -> None:
        """A gate before round 1: may replace the initial weights. Nothing by default."""

    def after_aggregation(self, server: Server) -> None:
        """A step after each aggregation: may replace the new global weights. Nothing by default."""


def handler(target: type, /, **settings: Any) -> dict[str, Any]:
    """Return the MONAI config of one handler."""
    return {"_target_": f"{target.__module__}.{target.__qualname__}", **settings}
