"""FedAvg that starts from the public set: the fair rival of a method that uses one."""

from pydantic import Field

from fedhelp_med.methods.base import Server
from fedhelp_med.methods.fedavg import FedAvg, FedAvgSettings
from fedhelp_med.methods.server_steps import knows_the_task, warm_start


class FedAvgPublicSettings(FedAvgSettings):
    """Settings of FedAvg with a public start.

    Args:
        warm_start: steps of training on the public set before round 1.
    """

    warm_start: int = Field(800, ge=1)


class FedAvgPublic(FedAvg):
    """FedAvg whose global network is first trained on the public images' labels, the foundation model's, or both.

    Where the public set speaks of other classes than the task's, there is nothing to start from, and this is FedAvg.
    """

    name = "fedavg-public"
    settings_type = FedAvgPublicSettings
    settings: FedAvgPublicSettings

    @property
    def trains_at_server(self) -> bool:
        """It does, before round 1."""
        return True

    def before_first_round(self, server: Server) -> None:
        """Train the initial weights on the public set."""
        if knows_the_task(server):
            warm_start(server, self.settings.warm_start)
        else:
            server.record("warm_start", steps=0, reason="the public set speaks of other classes")
