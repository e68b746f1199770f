"""FML: symmetric mutual learning (Shen et al. 2020, arXiv 2006.16765); ProxyFL exchanges the same proxy."""

from pydantic import Field

from fedhelp_med.handlers import BackwardDistillation, ForwardDistillation
from fedhelp_med.methods.base import TRAIN, TRAIN_LARGE, Method, Role, RolePlan, Settings, handler


class FMLSettings(Settings):
    """Settings of FML.

    Args:
        forward: the weight of the large network's soft labels in the proxy's loss.
        backward: the weight of the proxy's soft labels in the large network's loss.
        temperature: T of both.
    """

    forward: float = Field(1.0, ge=0)
    backward: float = Field(1.0, ge=0)
    temperature: float = Field(1.0, gt=0)


class FML(Method):
    """At large sites a large network and a proxy teach each other whole soft labels, both ways alike.

    - ``L_proxy = CE(z_P, y) + a T^2 KL(sg p_W || p_P)``, ``L_large = CE(z_W, y) + b T^2 KL(sg p_P || p_W)``;
      the proxy travels (the paper weights CE and KL to a sum of one; here both are scaled alike by the optimiser).
    - small sites have the small network only, and train it as in FedAvg.
    """

    name = "fml"
    settings_type = FMLSettings
    settings: FMLSettings

    def plan(self, role: Role) -> RolePlan:
        """Return FedAvg's plan for a small site, and mutual learning for a large one."""
        if role == "small":
            return RolePlan(trained="surrogate", deployed=("surrogate",))
        temperature = self.settings.temperature
        return RolePlan(
            trained="proxy",
            configs=(TRAIN, TRAIN_LARGE),
            handlers=(
                handler(ForwardDistillation, weight=self.settings.forward, temperature=temperature),
                handler(BackwardDistillation, weight=self.settings.backward, temperature=temperature),
            ),
            deployed=("large",),
        )
