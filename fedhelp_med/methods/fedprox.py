"""FedProx: FedAvg that stays near the global model (Li et al. 2020, arXiv 1812.06127)."""

from typing import Any

from pydantic import Field

from fedhelp_med.handlers import ProximalTerm
from fedhelp_med.methods.base import Role, handler
from fedhelp_med.methods.fedavg import FedAvg, FedAvgSettings


class FedProxSettings(FedAvgSettings):
    """Settings of FedProx.

    Args:
        mu: the weight of the proximal term.
    """

    mu: float = Field(0.01, ge=0)


class FedProx(FedAvg):
    """FedAvg whose sites minimise ``CE(f(x), y) + mu / 2 * ||w - w_global||^2`` (equation 2)."""

    name = "fedprox"
    settings_type = FedProxSettings
    settings: FedProxSettings

    def handlers(self, role: Role) -> tuple[dict[str, Any], ...]:
        """Return FedAvg's handlers and the proximal term."""
        return (*super().handlers(role), handler(ProximalTerm, weight=self.settings.mu))
