"""FedAvg: one small network everywhere (McMahan et al. 2017, arXiv 1602.05629)."""

from typing import Any

from pydantic import Field

from fedhelp_med.handlers import CosineOverRounds
from fedhelp_med.methods.base import Method, Role, RolePlan, Settings, handler


class FedAvgSettings(Settings):
    """Settings of FedAvg and of the methods that add to it.

    Args:
        learning_rate: of Adam; None leaves the bundle's.
        decay: the share of the learning rate that is left in the last round, along a cosine; 1 for none. With FedHelp's
            (2e-3 and 0.1) the schedule explains no difference between them.
    """

    learning_rate: float | None = Field(None, gt=0)
    decay: float = Field(1.0, ge=0, le=1)


class FedAvg(Method):
    """Every site trains the downloaded small network on ``CE(f(x), y)``; the server averages, ``w = sum n_i/n w_i``.

    Every site deploys the global network.
    """

    name = "fedavg"
    settings_type = FedAvgSettings
    settings: FedAvgSettings

    def plan(self, role: Role) -> RolePlan:
        """Return the same plan for both roles; at a large site the small network is called proxy."""
        trained = "surrogate" if role == "small" else "proxy"
        rate = self.settings.learning_rate
        constants = {} if rate is None else {"learning_rate": rate}
        return RolePlan(trained=trained, handlers=self.handlers(role), constants=constants, deployed=("global",))

    def handlers(self, role: Role) -> tuple[dict[str, Any], ...]:
        """Return the handlers of a role; the methods that add to FedAvg add theirs."""
        return () if self.settings.decay == 1 else (handler(CosineOverRounds, floor=self.settings.decay),)
