"""A start from public knowledge for a network that never leaves its site."""

from collections.abc import Iterable
from typing import Any

from ignite.engine import Events

from fedhelp_med.handlers.guidance import cycled
from fedhelp_med.handlers.public_training import train_on_public
from fedhelp_med.handlers.schedule import GATE


class PublicWarmStart:
    """Before round 1, trains the large network on what is known of the public images, as the server's warm start does.

    The loss is lambda times the distance to the foundation model's soft labels, plus the cross-entropy of the public
    labels; a public set has one of the two, or both (:func:`fedhelp_med.losses.public_loss`).

    It acts only when the server's zero-shot gate is open (``engine.state.signals["gate"]``), unless it is told
    otherwise: knowledge of another domain costs more than it gives.

    Args:
        public_loader: batches with ``image`` and ``knowledge`` and/or ``label``; it is cycled.
        steps: how many batches.
        learning_rate: at the start; it decays to 0 along a cosine.
        network: the trainer's attribute that is trained, ``large_network`` or ``network``.
        knowledge_weight: lambda; at 0 the public labels are all that it learns from.
        trust: a factor of lambda: how good the model is known to be.
        gated: wait for the server's gate.
    """

    def __init__(
        self,
        public_loader: Iterable[dict[str, Any]],
        steps: int,
        learning_rate: float = 1e-3,
        network: str = "large_network",
        knowledge_weight: float = 1.0,
        trust: float = 1.0,
        gated: bool = True,
    ) -> None:
        self.public_loader = public_loader
        self.steps = steps
        self.learning_rate = learning_rate
        self.network = network
        self.knowledge_weight = knowledge_weight
        self.trust = trust
        self.gated = gated
        self.done = False

    def attach(self, engine: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Train once, at the start of the site's first round."""
        state = engine.state
        if self.done or (self.gated and not getattr(state, "signals", {}).get(GATE)):
            return
        self.done = True
        train_on_public(
            getattr(engine, self.network),
            cycled(self.public_loader),
            self.steps,
            self.learning_rate,
            device=state.device,
            weight=self.trust * self.knowledge_weight,
        )

    def state_dict(self) -> dict[str, bool]:
        """Return whether it has acted: a site that is built anew does not start over, one that failed then does."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Restore whether it has acted."""
        self.done = state["done"]
