"""What each method asks of its sites: FedHelp, its rivals and its ablations."""

from types import SimpleNamespace
from typing import Any

import pytest
from methods_plans import BUNDLE, merged, plan_of, targets
from monai.bundle import ConfigParser
from pydantic import ValidationError

from fedhelp_med.handlers import ForwardDistillation, FoundationGuidance, RankingDistillation, UnlessShut
from fedhelp_med.methods import METHODS, ROLES, Role, create_method

# FedHelp


def test_fedhelp_guides_small_sites_and_distils_both_ways_at_large_ones() -> None:
    small, large = (plan_of("fedhelp", "paper", role) for role in ROLES)
    assert targets(small) == [FoundationGuidance.__name__]
    assert targets(large) == [ForwardDistillation.__name__, RankingDistillation.__name__]
    assert small.trained == "surrogate"
    assert large.trained == "proxy"


def test_the_papers_preset_is_the_equations_as_published() -> None:
    settings = create_method("fedhelp", "paper", {}).settings.model_dump()
    published = {"temperature": 1.0, "ranking": 0.2, "ranking_loss": "margin", "top_k": 1, "head": "auxiliary"}
    without = {"warm_start": 0, "large_warm_start": 0, "server_steps": 0, "forward_gated": False, "decay": 1.0}
    assert published.items() <= settings.items()
    assert without.items() <= settings.items()
    assert settings["guidance"] > 0
    assert settings["forward"] > 0


def test_the_recommended_preset_moves_the_knowledge_to_the_server() -> None:
    small, large = (plan_of("fedhelp", "recommended", role) for role in ROLES)
    assert targets(small) == ["CosineOverRounds"]
    assert {"floor": 0.1, "cold": 0.5}.items() <= small.handlers[0].items()  # behind a shut gate FedAvg's own rate
    assert targets(large) == ["CosineOverRounds", "PublicWarmStart", "ForwardDistillation", "RankingDistillation"]
    assert large.handlers[2]["weight"]["_target_"].endswith("WhileAhead")  # a teacher only while it is better
    assert small.deployed == ("surrogate", "global")
    assert large.deployed == ("large", "global")


def test_guidance_waits_for_the_gate_except_of_embeddings_which_have_no_classes() -> None:
    weight = plan_of("fedhelp", "paper", "small").handlers[0]["weight"]
    for kind, gated in (("logits", True), ("embedding", False)):
        parser = ConfigParser({"public": {"knowledge": SimpleNamespace(kind=kind)}, "weight": dict(weight)})
        assert parser.get_parsed_content("weight") == UnlessShut(1.0, gated)


@pytest.mark.parametrize("name", ["fedavg", "fedavg-public", "fedbn", "fedprox"])
def test_the_fedavg_family_can_have_fedhelps_learning_rate(name: str) -> None:
    plain = plan_of(name, "recommended", "small")
    assert not plain.constants and "CosineOverRounds" not in targets(plain)
    plan = create_method(name, "recommended", {"learning_rate": 2e-3, "decay": 0.1}).plan("small")
    assert plan.constants == {"learning_rate": 2e-3}
    assert targets(plan)[0] == "CosineOverRounds" and plan.handlers[0]["floor"] == 0.1


def test_guidance_learns_public_labels_by_the_bundles_own_loss() -> None:
    assert plan_of("fedhelp", "paper", "small").handlers[0]["label_loss"] == "@public#label_loss"
    for task, loss in (("segmentation", "DiceCELoss"), ("classification", "NoneType")):
        parser = ConfigParser()
        parser.read_config(str(BUNDLE.with_name(f"fedhelp_{task}") / "configs" / "train.json"))
        assert type(parser.get_parsed_content("public#label_loss")).__name__ == loss


def test_settings_reach_the_handlers() -> None:
    wanted = {
        "guidance": 0.5,
        "knowledge": 0.7,
        "head": "task",
        "temperature": 2.0,
        "forward": 0.3,
        "ranking": 0.1,
        "top_k": 2,
        "margin": 0.4,
        "guidance_weights": "nearness",
    }
    (guidance,) = plan_of("fedhelp", "paper", "small", **wanted).handlers
    forward, ranking = plan_of("fedhelp", "paper", "large", **wanted).handlers
    assert {"knowledge_weight": 0.7, "target": "task", "temperature": 2.0}.items() <= guidance.items()
    assert (guidance["weight"]["value"], guidance["weights"]) == (0.5, "nearness")
    assert {"weight": 0.3, "temperature": 2.0}.items() <= forward.items()
    assert {"weight": 0.1, "loss": "margin", "top_k": 2, "margin": 0.4}.items() <= ranking.items()


@pytest.mark.parametrize("loss", ["margin", "ranknet", "listmle"])
def test_every_ranking_loss_can_be_chosen(loss: str) -> None:
    parser = merged(plan_of("fedhelp", "paper", "large", ranking_loss=loss))
    *_, ranking = parser.get_parsed_content("method_handlers")
    assert ranking.loss.__class__.__name__.lower().startswith(loss)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("guidance", -0.1),
        ("knowledge", -1),
        ("head", "both"),
        ("temperature", 0),
        ("temperature", -1.0),
        ("forward", -0.1),
        ("ranking", -0.2),
        ("ranking_loss", "listnet"),
        ("top_k", 0),
        ("top_k", 1.5),
        ("margin", -0.1),
        ("guidance_weights", "rarity"),
        ("forward", "much"),
        ("learning_rate", 0),
        ("decay", 1.1),
        ("warm_start", -1),
        ("gate", 1.5),
        ("server_steps", 0.5),
        ("server_part", 2),
    ],
)
def test_fedhelp_refuses_values_out_of_range(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        create_method("fedhelp", "paper", {key: value})
    assert [problem["loc"] for problem in error.value.errors()] == [(key,)]


# The others


@pytest.mark.parametrize("role", ROLES)
def test_fedprox_stays_near_the_global_network(role: Role) -> None:
    (proximal,) = plan_of("fedprox", "paper", role, mu=0.3).handlers
    assert targets(plan_of("fedprox", "paper", role)) == ["ProximalTerm"]
    assert proximal["weight"] == 0.3
    with pytest.raises(ValidationError):
        create_method("fedprox", "paper", {"mu": -0.1})


def test_fedbn_keeps_normalisation_at_the_sites_and_nothing_else_does() -> None:
    assert {name for name, method in METHODS.items() if method.local_layers != "none"} == {"fedbn"}
    assert METHODS["fedbn"].local_layers == "normalization"


def test_fml_teaches_both_ways_alike() -> None:
    assert targets(plan_of("fml", "paper", "small")) == []
    large = plan_of("fml", "paper", "large", forward=0.4, backward=0.6, temperature=2.0)
    assert targets(large) == ["ForwardDistillation", "BackwardDistillation"]
    assert [(term["weight"], term["temperature"]) for term in large.handlers] == [(0.4, 2.0), (0.6, 2.0)]


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [
        ("fedhelp-no-guidance", [], ["ForwardDistillation", "RankingDistillation"]),
        ("fedhelp-no-forward", ["FoundationGuidance"], ["RankingDistillation"]),
        ("fedhelp-no-backward", ["FoundationGuidance"], ["ForwardDistillation"]),
        ("fedhelp-backward-kl", ["FoundationGuidance"], ["ForwardDistillation", "BackwardDistillation"]),
        ("fedhelp-labels-only", ["FoundationGuidance"], ["ForwardDistillation", "RankingDistillation"]),
    ],
)
def test_an_ablation_is_one_piece_less(name: str, small: list[str], large: list[str]) -> None:
    plans = [plan_of(name, "paper", role) for role in ROLES]
    assert [targets(plan) for plan in plans] == [small, large]
    whole = [plan_of("fedhelp", "paper", role) for role in ROLES]
    assert [plan.deployed for plan in plans] == [plan.deployed for plan in whole]


def test_without_guidance_the_public_set_plays_no_part_in_either_preset() -> None:
    for preset in METHODS["fedhelp-no-guidance"].presets:
        method = create_method("fedhelp-no-guidance", preset, {})
        assert not [config for role in ROLES for config in method.plan(role).handlers if "public_loader" in config]
        untouchable: Any = object()
        method.before_first_round(untouchable)
        method.after_aggregation(SimpleNamespace(round=1, rounds=4, signals={"gate": True}))  # type: ignore[arg-type]


def test_with_labels_only_the_foundation_models_answers_weigh_nothing() -> None:
    (guidance,) = plan_of("fedhelp-labels-only", "paper", "small").handlers
    assert guidance["knowledge_weight"] == 0
    start = plan_of("fedhelp-labels-only", "recommended", "large").handlers[1]
    assert start["knowledge_weight"] == 0


def test_large_sites_train_the_large_network_alone_under_local() -> None:
    small, large = (merged(plan_of("local", "paper", role)) for role in ROLES)
    networks = [sum(p.numel() for p in parser.get_parsed_content("network").parameters()) for parser in (small, large)]
    assert networks[0] < networks[1]
    assert large["head"] == "@large_head"
