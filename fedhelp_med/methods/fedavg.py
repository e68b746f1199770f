"""FedAvg: one small network everywhere (McMahan et al. 2017, arXiv 1602.05629)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fedhelp_med.methods.base import Method, Role, RolePlan


class FedAvg(Method):
    """Every site trains the downloaded small network on ``CE(f(x), y)``; the server averages, ``w = sum n_i/n w_i``.

    Every site deploys the global network.
    """

    name = "fedavg"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "recommended": {}}

    def plan(self, role: Role) -> RolePlan:
        """Return the same plan for both roles; at a large site the small network is called proxy."""
        trained = "surrogate" if role == "small" else "proxy"
        return RolePlan(trained=trained, handlers=self.handlers(role), deployed=("global",))

    def handlers(self, role: Role) -> tuple[dict[str, Any], ...]:
        """Return the handlers of a role: none here, for the methods that add to FedAvg."""
        return ()
