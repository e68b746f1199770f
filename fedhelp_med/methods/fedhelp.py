"""FedHelp: asymmetrical-reciprocity federated learning (Wang et al., KDD 2025, arXiv 2412.19654)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedhelp_med.handlers import (
    GATE,
    CosineOverRounds,
    ForwardDistillation,
    FoundationGuidance,
    PublicWarmStart,
    RankingDistillation,
    UnlessShut,
    WhileAhead,
)
from fedhelp_med.methods.base import TRAIN, TRAIN_LARGE, TRUST, Method, Role, RolePlan, Server, Settings, handler
from fedhelp_med.methods.server_steps import distil_updates, knows_the_task, overtaken, warm_start, zero_shot_gate


class FedHelpSettings(Settings):
    """FedHelp's pieces, each of which can be switched; defaults are the paper's.

    Args:
        learning_rate: of Adam; None leaves the bundle's.
        decay: the share of the learning rate that is left in the last round; 1 for none.
        cold_rate: the share of the learning rate that holds, without decay, while the gate is shut; None: the gate does
            not matter.
        guidance: scale of the whole public loss at small sites, every round; 0 for none.
        knowledge: lambda, the weight of the foundation model's soft labels inside it.
        head: the head through which guidance at the sites acts.
        temperature: T of guidance and of forward distillation.
        forward: alpha, large network -> proxy.
        forward_gated: only while the large network beats the global one on the site's validation split.
        ranking: beta, proxy -> large network.
        ranking_loss: the form of the ranking loss.
        top_k: of the margin form.
        margin: of the margin form, in logits.
        ranking_trust: weigh each sample by the agreement of the two networks.
        guidance_project: take away what opposes the private gradient.
        guidance_weights: of the public images in guidance: all ``equal``; by ``class``, more where the foundation
            model's likeliest class is rarer in the public set; by ``nearness`` of their features to the site's own.
        warm_start: steps in which the server, before round 1, trains the global network on the foundation model's
            answers through the task head. Only where the foundation model's classes are the task's. With 0 there is
            no gate either, and what waits for it to open (``large_warm_start``, ``server_steps``, the decay beside a
            ``cold_rate``) does not act.
        large_warm_start: the same at large sites for their large networks, once the gate is open.
        gate: the chance-corrected balanced accuracy that the warm-started network has to exceed on the sites' own
            images; otherwise the public knowledge is not used at all.
        server_steps: steps of distillation at the server after each aggregation, while the gate is open.
        server_part: the first part of the rounds in which they are taken.
        server_gated: only until a global network does better than the warm-started one on the sites' validation splits
            by more than a standard error: from then on the model would hold the sites back.
        average: deploy the mean of the site's own network and the global one.
        balance: a deployed classifier's logits are shifted by the class frequencies that it learned from, the site's
            own or all sites', so that its likeliest class maximises the balanced accuracy; with two classes the order
            of the images, and so the AUC, stays.
        choose: unless another network of the site is better on its validation split by more than a standard error.
    """

    learning_rate: float | None = Field(None, gt=0)
    decay: float = Field(1.0, ge=0, le=1)
    cold_rate: float | None = Field(None, gt=0)
    guidance: float = Field(1.0, ge=0)
    knowledge: float = Field(1.0, ge=0)
    head: Literal["auxiliary", "task"] = "auxiliary"
    temperature: float = Field(1.0, gt=0)
    forward: float = Field(1.0, ge=0)
    forward_gated: bool = False
    ranking: float = Field(0.2, ge=0)
    ranking_loss: Literal["margin", "ranknet", "listmle"] = "margin"
    top_k: int = Field(1, ge=1)
    margin: float = Field(0.1, ge=0)
    ranking_trust: bool = False
    guidance_project: bool = False
    guidance_weights: Literal["equal", "class", "nearness"] = "equal"
    warm_start: int = Field(0, ge=0)
    large_warm_start: int = Field(0, ge=0)
    gate: float = Field(0.45, ge=-1, le=1)
    server_steps: int = Field(0, ge=0)
    server_part: float = Field(0.5, ge=0, le=1)
    server_gated: bool = False
    average: bool = False
    balance: bool = False
    choose: bool = False


KIND = "getattr(@public#knowledge, 'kind', 'logits')"
"""MONAI config, inside an expression, of what the foundation model answers with."""

RECOMMENDED: Mapping[str, Any] = {
    "learning_rate": 2e-3,
    "decay": 0.1,
    "cold_rate": 0.5,  # the bundles' own rate, as FedAvg has it
    "guidance": 0.0,
    "forward": 0.3,
    "forward_gated": True,
    "ranking": 0.1,
    "warm_start": 600,
    "large_warm_start": 500,
    "server_steps": 10,
    "server_gated": True,
    "average": True,
    "balance": True,
    "choose": True,
}


class FedHelp(Method):
    """Small sites learn a surrogate under guidance, large ones a proxy and a large network that teach each other.

    - small: ``CE(h(phi(x)), y) + CE(g(phi(x_p)), y_p) + lambda T^2 KL(p_F(x_p) || p_g(x_p))``; phi and h travel.
    - large: ``L_proxy = CE(z_P, y) + alpha T^2 KL(sg p_W || p_P)``; ``L_large = CE(z_W, y) + beta R(z_W; sg z_P)``;
      the proxy travels.
    - server: the weighted mean of surrogates and proxies.

    The preset ``paper`` is that, every round. ``recommended`` moves the foundation model's knowledge to the server
    (a warm start, then a few steps of distillation after each aggregation until the sites are past it) behind a
    zero-shot gate, uses the large network as a teacher only while it is better, lets the learning rate decay and
    deploys averages.
    """

    name = "fedhelp"
    settings_type = FedHelpSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "recommended": RECOMMENDED}
    settings: FedHelpSettings

    def plan(self, role: Role) -> RolePlan:
        """Return the surrogate's plan, or that of the proxy and its large network."""
        rate = self.settings.learning_rate
        constants = {} if rate is None else {"learning_rate": rate}
        together = ("global",) if self.settings.average else ()
        if role == "small":
            return RolePlan(
                trained="surrogate",
                handlers=(*self._rates(), *self._guidance()),
                constants=constants,
                deployed=("surrogate", *together),
            )
        return RolePlan(
            trained="proxy",
            configs=(TRAIN, TRAIN_LARGE),
            handlers=(*self._rates(), *self._large_warm_start(), *self._forward(), *self._ranking()),
            constants=constants,
            deployed=("large", *together),
        )

    @property
    def trains_at_server(self) -> bool:
        """Whether there is a warm start, behind a gate that asks the sites, or distillation."""
        return bool(self.settings.warm_start or self.settings.server_steps)

    @property
    def balances(self) -> bool:
        """Whether deployed classifiers are shifted by the class frequencies."""
        return self.settings.balance

    @property
    def chooses(self) -> bool:
        """Whether the sites' validation studies decide."""
        return self.settings.choose

    def before_first_round(self, server: Server) -> None:
        """Warm-start the global network, and undo it when the sites' own images do not pass the gate."""
        if not self.settings.warm_start:
            return
        weight = self.settings.knowledge
        if not knows_the_task(server, labels_only=not weight):
            wanted = "foundation model" if weight else "public labels"
            server.record("gate", open=False, reason=f"no {wanted} of the task's own classes")
            server.signals[GATE] = False
            return
        cold = server.weights
        warm_start(server, self.settings.warm_start, knowledge_weight=weight)
        server.signals[GATE] = zero_shot_gate(server, self.settings.gate)
        if not server.signals[GATE]:
            server.weights = cold

    def after_aggregation(self, server: Server) -> None:
        """Distil the aggregate on public images while the gate is open, early, and the model is ahead of the sites."""
        early = server.round <= self.settings.server_part * server.rounds + 1e-9  # 0.7 of 10 rounds is less than 7
        if not (self.settings.server_steps and early and server.signals.get(GATE)):
            return
        past = overtaken(server) if self.settings.server_gated else None
        if past is None:
            rate = (self.settings.learning_rate or 1e-3) / 2
            distil_updates(server, self.settings.server_steps, rate, use_knowledge=self.settings.knowledge > 0)
        elif past == server.round - 1:
            server.record("distillation_ended", reason="the sites are past the warm start")

    def _rates(self) -> list[dict[str, Any]]:
        if self.settings.decay == 1 and self.settings.cold_rate is None:
            return []
        return [handler(CosineOverRounds, floor=self.settings.decay, cold=self.settings.cold_rate)]

    def _guidance(self) -> list[dict[str, Any]]:
        if not self.settings.guidance:
            return []
        return [
            handler(
                FoundationGuidance,
                _disabled_="$@public_datalist is None",
                network="@network",
                optimizer="@optimizer",
                public_loader="@public#dataloader",
                head="@head",
                channels="$None if @public#knowledge is None else @public#knowledge.channels",
                weight=handler(UnlessShut, value=self.settings.guidance, gated=f"${KIND} != 'embedding'"),
                knowledge_weight=self.settings.knowledge,
                temperature=self.settings.temperature,
                target=self.settings.head,
                kind=f"${KIND}",
                label_loss="@public#label_loss",
                trust=TRUST,
                project=self.settings.guidance_project,
                weights=self.settings.guidance_weights,
            )
        ]

    def _large_warm_start(self) -> list[dict[str, Any]]:
        steps = self.settings.large_warm_start
        public = {"_disabled_": "$@public_datalist is None", "public_loader": "@public#dataloader"}
        start = handler(PublicWarmStart, steps=steps, knowledge_weight=self.settings.knowledge, trust=TRUST, **public)
        return [start] if steps else []

    def _forward(self) -> list[dict[str, Any]]:
        weight: Any = self.settings.forward
        if self.settings.forward_gated:
            weight = handler(WhileAhead, value=weight)
        return [handler(ForwardDistillation, weight=weight, temperature=self.settings.temperature)]

    def _ranking(self) -> list[dict[str, Any]]:
        form = {"top_k": self.settings.top_k, "margin": self.settings.margin}
        return [
            handler(
                RankingDistillation,
                weight=self.settings.ranking,
                loss=self.settings.ranking_loss,
                trust=self.settings.ranking_trust,
                **(form if self.settings.ranking_loss == "margin" else {}),
            )
        ]
