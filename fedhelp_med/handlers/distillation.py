"""The two directions at a large site (arXiv 2412.19654, asymmetrical dual distillation)."""

from typing import Any

from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from fedhelp_med.engines import LARGE_LOSS, LARGE_PRED
from fedhelp_med.handlers.schedule import Schedule
from fedhelp_med.handlers.term import LossTerm
from fedhelp_med.losses import ForwardDistillationLoss, as_categorical, ranking_loss


class ForwardDistillation(LossTerm):
    """Large -> proxy: the whole soft label. Adds ``alpha * T^2 * KL(sg p_W || p_P)`` to the proxy's loss.

    Args:
        weight: alpha, a number or a schedule.
        temperature: T.
    """

    name = "forward"

    def __init__(self, weight: float | Schedule = 1.0, temperature: float = 1.0) -> None:
        super().__init__(weight, Keys.LOSS)
        self.loss = ForwardDistillationLoss(temperature)

    def term(self, engine: Any) -> Tensor:
        """Return the divergence of the proxy from the large network on the current private batch."""
        output = engine.state.output
        loss: Tensor = self.loss(output[Keys.PRED], output[LARGE_PRED])
        return loss


class RankingDistillation(LossTerm):
    """Proxy -> large: the ranking only. Adds ``beta * R(z_W; order of sg z_P)`` to the large network's loss.

    Args:
        weight: beta, a number or a schedule.
        loss: ``margin``, ``ranknet`` or ``listmle``.
        trust: weigh each sample (in dense output each position) by the agreement of the two networks on it,
            ``1 - TV(p_W, p_P)``, the total variation distance of their probabilities: after FedeKD (arXiv 2605.05553).
        settings: of the loss, e.g. ``top_k`` and ``margin``.
    """

    name = "ranking"

    def __init__(
        self, weight: float | Schedule = 0.2, loss: str = "margin", trust: bool = False, **settings: Any
    ) -> None:
        super().__init__(weight, LARGE_LOSS)
        self.trust = trust
        self.loss = ranking_loss(loss, **settings)

    def term(self, engine: Any) -> Tensor:
        """Return the large network's violation of the proxy's order on the current private batch."""
        output = engine.state.output
        student, teacher = output[LARGE_PRED], output[Keys.PRED]
        loss: Tensor = self.loss(student, teacher, agreement(student, teacher) if self.trust else None)
        return loss


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """Return ``1 - TV``: 1 where two networks give the same probabilities, 0 where they contradict each other.

    Args:
        one: logits ``B, C[, spatial]``.
        other: the same shape.

    Returns:
        Tensor: ``B, 1[, spatial]``, without a graph.
    """
    p, q = (as_categorical(logits.detach().float()).softmax(1) for logits in (one, other))
    return 1 - 0.5 * (p - q).abs().sum(1, keepdim=True)


class BackwardDistillation(LossTerm):
    """Proxy -> large: the whole soft label. Adds ``b * T^2 * KL(sg p_P || p_W)`` to the large network's loss.

    What FedHelp does *not* do: the symmetric counterpart of ``ForwardDistillation``, for FML and as an ablation.

    Args:
        weight: b, a number or a schedule.
        temperature: T.
    """

    name = "backward"

    def __init__(self, weight: float | Schedule = 1.0, temperature: float = 1.0) -> None:
        super().__init__(weight, LARGE_LOSS)
        self.loss = ForwardDistillationLoss(temperature)

    def term(self, engine: Any) -> Tensor:
        """Return the divergence of the large network from the proxy on the current private batch."""
        output = engine.state.output
        loss: Tensor = self.loss(output[LARGE_PRED], output[Keys.PRED])
        return loss
