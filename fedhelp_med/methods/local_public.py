"""Local training from public knowledge: distillation without a federation, the rival that shares nothing."""

from pydantic import Field

from fedhelp_med.handlers import PublicWarmStart
from fedhelp_med.methods.base import TRUST, Role, RolePlan, Settings, handler
from fedhelp_med.methods.local import Local


class LocalPublicSettings(Settings):
    """Settings of local training with a public start.

    Args:
        warm_start: steps on the public set before the first round.
    """

    warm_start: int = Field(600, ge=1)


class LocalPublic(Local):
    """Every site alone, from a network that it first trained on the foundation model's answers to public images.

    What it gains over ``local`` owes nothing to the other sites; what FedHelp gains over it owes them everything.
    Where the public set speaks of other classes than the task's there is nothing to start from, and this is ``local``.
    """

    name = "local-public"
    settings_type = LocalPublicSettings
    settings: LocalPublicSettings

    def plan(self, role: Role) -> RolePlan:
        """Return the plan of ``local`` with a public start."""
        alone = super().plan(role)
        start = handler(
            PublicWarmStart,
            _disabled_="$@public_datalist is None or not @public#knowledge.speaks_of(@class_names)",
            public_loader="@public#dataloader",
            steps=self.settings.warm_start,
            network="network",
            trust=TRUST,
            gated=False,
        )
        return RolePlan(trained="own", handlers=(start,), overlay=alone.overlay, deployed=("own",))
