"""FedHelp: asymmetrical-reciprocity federated learning (Wang et al., KDD 2025, arXiv 2412.19654)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedhelp_med.handlers import ForwardDistillation, FoundationGuidance, RankingDistillation
from fedhelp_med.methods.base import TRAIN, TRAIN_LARGE, Method, Role, RolePlan, Settings, handler


class FedHelpSettings(Settings):
    """The weights of FedHelp's terms; defaults are the paper's.

    Args:
        guidance: scale of the whole public loss at small sites.
        knowledge: lambda, the weight of the foundation model's soft labels inside it.
        head: the head through which guidance acts.
        temperature: T of guidance and of forward distillation.
        forward: alpha, large network -> proxy.
        ranking: beta, proxy -> large network.
        ranking_loss: the form of the ranking loss.
        top_k: of the margin form.
        margin: of the margin form, in logits.
    """

    guidance: float = Field(1.0, ge=0)
    knowledge: float = Field(1.0, ge=0)
    head: Literal["auxiliary", "task"] = "auxiliary"
    temperature: float = Field(1.0, gt=0)
    forward: float = Field(1.0, ge=0)
    ranking: float = Field(0.2, ge=0)
    ranking_loss: Literal["margin", "ranknet", "listmle"] = "margin"
    top_k: int = Field(1, ge=1)
    margin: float = Field(0.1, ge=0)


class FedHelp(Method):
    """Small sites learn a surrogate under guidance, large ones a proxy and a large network that teach each other.

    - small: ``CE(h(phi(x)), y) + CE(g(phi(x_p)), y_p) + lambda T^2 KL(p_F(x_p) || p_g(x_p))``; phi and h travel.
    - large: ``L_proxy = CE(z_P, y) + alpha T^2 KL(sg p_W || p_P)``; ``L_large = CE(z_W, y) + beta R(z_W; sg z_P)``;
      the proxy travels.
    - server: the weighted mean of surrogates and proxies.
    """

    name = "fedhelp"
    settings_type = FedHelpSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}
    settings: FedHelpSettings

    def plan(self, role: Role) -> RolePlan:
        """Return the surrogate's plan, or that of the proxy and its large network."""
        if role == "small":
            return RolePlan(
                trained="surrogate", configs=(TRAIN,), handlers=(self._guidance(),), deployed=("surrogate",)
            )
        return RolePlan(
            trained="proxy",
            configs=(TRAIN, TRAIN_LARGE),
            handlers=(self._forward(), self._ranking()),
            personal=("large",),
            deployed=("large",),
        )

    def _guidance(self) -> dict[str, Any]:
        return handler(
            FoundationGuidance,
            _disabled_="$@public_datalist is None",
            public_loader="@public#dataloader",
            head="@head",
            channels="$None if @public#knowledge is None else @public#knowledge.channels",
            weight=self.settings.guidance,
            knowledge_weight=self.settings.knowledge,
            temperature=self.settings.temperature,
            target=self.settings.head,
        )

    def _forward(self) -> dict[str, Any]:
        return handler(ForwardDistillation, weight=self.settings.forward, temperature=self.settings.temperature)

    def _ranking(self) -> dict[str, Any]:
        form = {"top_k": self.settings.top_k, "margin": self.settings.margin}
        return handler(
            RankingDistillation,
            weight=self.settings.ranking,
            loss=self.settings.ranking_loss,
            **(form if self.settings.ranking_loss == "margin" else {}),
        )
