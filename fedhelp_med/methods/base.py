"""What a federated method is: per role its networks and its handlers, what is exchanged, how it is aggregated.

A method never touches an engine. It names the bundle's config files that make a role and adds an overlay of MONAI
config, so that everything a site executes can be read in ``sites/NAME/config.json``, and so that MONAI's own
``MonaiAlgo`` can execute it too.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from fedhelp_med.networks import LocalLayers

Role = Literal["small", "large"]
ROLES: tuple[Role, ...] = ("small", "large")

Exchange = Literal["weights", "predictions", "nothing"]

TRAIN = "configs/train.json"
TRAIN_LARGE = "configs/train_large.json"

TRUST = "$getattr(@public#knowledge, 'trust', 1.0)"
"""MONAI config of the factor by which the foundation model's knowledge is weighed (``follow_quality``)."""


CLASS_COUNTS = "class_counts"
"""The signal that tells how many training images of each class all sites have together, where they were counted."""


@dataclass(frozen=True)
class RolePlan:
    """What a site of one role executes.

    Args:
        trained: what ``metrics.csv`` calls its trainer's ``network``: ``surrogate``, ``proxy``, ``local`` or ``own``.
        configs: the bundle's config files, in order, relative to the bundle.
        handlers: MONAI config of the handlers that the method adds, in order (the bundle's ``method_handlers``).
        constants: MONAI config by id that the federation file's ``overrides`` go over (``learning_rate``).
        overlay: further MONAI config, by id, that goes over everything.
        deployed: the networks that the site would use; several are averaged in probability.
    """

    trained: str
    configs: tuple[str, ...] = (TRAIN,)
    handlers: tuple[Mapping[str, Any], ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    overlay: Mapping[str, Any] = field(default_factory=dict)
    deployed: tuple[str, ...] = ()


class Server(Protocol):
    """What a method's server steps may use. There is no private image in it.

    Attributes:
        round: the round that was just aggregated; 0 before the first.
        rounds: how many there will be.
        weights: the current global weights; a step may replace them.
        signals: what every site is told with the next round (``engine.state.signals``).
        updates: the states that the sites uploaded in this round, by site.
        classes: the task's.
    """

    round: int
    rounds: int
    weights: dict[str, Tensor]
    signals: dict[str, Any]
    updates: dict[str, Mapping[str, Tensor]]
    classes: tuple[str, ...]

    @property
    def knowledge(self) -> Any:
        """The public set with the foundation model's answers, None without a public set."""

    def network(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Return the exchanged network with ``weights``, the current global ones by default."""

    def public_batches(self, purpose: str) -> Iterator[dict[str, Any]]:
        """Yield public batches without end."""

    def validation(self, number: int) -> Mapping[str, float]:
        """Return how the global network of an earlier round did on the sites' validation splits, by site.

        Round 0 is the start of the first. In the task's key metric (more is better).
        """

    def count_recognised(self) -> Mapping[str, list[tuple[int, int]]]:
        """Ask every site for the recognised and present training images of each class."""

    def record(self, event: str, **details: Any) -> None:
        """Write a line to ``events.jsonl``."""


class Settings(BaseModel):
    """A method's settings; the federation file's ``settings`` are checked against them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(ABC):
    """A federated method. A subclass is one file in this folder; ``METHODS`` lists it under its ``name``.

    Args:
        settings: an instance of the subclass's ``Settings``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "recommended": {}}
    """Values of the settings under each preset; what the federation file says goes before them."""

    exchange: ClassVar[Exchange] = "weights"
    """What travels: the small network's weights, predictions on public images, or nothing."""

    local_layers: ClassVar[LocalLayers] = "none"
    """Layers of the exchanged network that stay at the sites."""

    keeps_optimizer: ClassVar[bool] = False
    """Whether the state of the exchanged network's optimiser survives a round (the personal one's always does)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def chooses(self) -> bool:
        """Whether a site may deploy another network than the plan's when its validation studies prefer it."""
        return False

    @property
    def balances(self) -> bool:
        """Whether a deployed classifier decides as if all classes were equally frequent at the site."""
        return False

    @property
    def trains_at_server(self) -> bool:
        """Whether the server trains or asks the exchanged network itself, and so needs all of its layers."""
        return False

    @abstractmethod
    def plan(self, role: Role) -> RolePlan:
        """Return what a site of ``role`` executes."""

    def before_first_round(self, server: Server) -> None:
        """Steps before round 1, such as a warm start and a gate; may replace the initial weights.

        Nothing by default.
        """

    def after_aggregation(self, server: Server) -> None:
        """A step after each aggregation: may replace the new global weights. Nothing by default."""


def handler(target: type, /, **settings: Any) -> dict[str, Any]:
    """Return the MONAI config of one handler."""
    return {"_target_": f"{target.__module__}.{target.__qualname__}", **settings}
