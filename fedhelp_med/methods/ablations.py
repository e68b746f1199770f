"""FedHelp with one piece less, or one in another form: what each piece is worth."""

from typing import Any

from fedhelp_med.handlers import BackwardDistillation
from fedhelp_med.methods.base import handler
from fedhelp_med.methods.fedhelp import FedHelp


class WithoutGuidance(FedHelp):
    """FedHelp that never uses the foundation model: no guidance, no warm start, no distillation at the server.

    Without a warm start there is no gate to open: it trains at the ``cold_rate``, as FedHelp behind a shut gate.
    """

    name = "fedhelp-no-guidance"

    def __init__(self, settings: Any) -> None:
        off = {"guidance": 0.0, "warm_start": 0, "large_warm_start": 0, "server_steps": 0}
        super().__init__(settings.model_copy(update=off))


class WithoutForward(FedHelp):
    """FedHelp without the large network's soft labels for the proxy."""

    name = "fedhelp-no-forward"

    def _forward(self) -> list[dict[str, Any]]:
        return []


class WithoutBackward(FedHelp):
    """FedHelp without the proxy's ranking for the large network."""

    name = "fedhelp-no-backward"

    def _ranking(self) -> list[dict[str, Any]]:
        return []


class BackwardAsKL(FedHelp):
    """FedHelp whose proxy teaches the large network whole soft labels instead of a ranking."""

    name = "fedhelp-backward-kl"

    def _ranking(self) -> list[dict[str, Any]]:
        return [handler(BackwardDistillation, weight=self.settings.ranking, temperature=self.settings.temperature)]


class LabelsOnly(FedHelp):
    """FedHelp that learns from public labels only (lambda = 0): what the labels alone explain."""

    name = "fedhelp-labels-only"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings.model_copy(update={"knowledge": 0.0}))
