"""Every method's plans: files that exist, handlers that can be built, settings that are checked."""

import ast
import inspect
import json
import pkgutil
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from pydantic import ValidationError

import fedhelp_med
from fedhelp_med import handlers, methods
from fedhelp_med.handlers import ForwardDistillation, FoundationGuidance, LossTerm, RankingDistillation
from fedhelp_med.methods import METHODS, ROLES, Method, Role, RolePlan, Settings, create_method, handler

BUNDLE = Path(str(files("fedhelp_med"))) / "bundles" / "fedhelp_classification"
EVERY = [(name, preset, role) for name, method in METHODS.items() for preset in method.presets for role in ROLES]
every_plan = pytest.mark.parametrize(("name", "preset", "role"), EVERY)


def plan_of(name: str, preset: str, role: Role, **settings: Any) -> RolePlan:
    return create_method(name, preset, settings).plan(role)


def merged(plan: RolePlan) -> ConfigParser:
    """The config that a site executes: the plan's files, its handlers in their place, its overlay on top."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / config) for config in plan.configs])
    parser.update({"method_handlers": [dict(config) for config in plan.handlers], **plan.overlay})
    return parser


# All methods


def test_every_method_of_the_folder_is_found_by_a_name_of_its_own() -> None:
    for module in pkgutil.iter_modules(methods.__path__):
        import_module(f"{methods.__name__}.{module.name}")
    written = [method for method in Method.__subclasses__() if method.__module__.startswith("fedhelp_med.")]
    assert {method.name for method in written} == set(METHODS)
    assert len(written) == len(METHODS)  # no two with one name
    assert all(METHODS[method.name] is method for method in written)


def test_the_methods_of_the_first_release_are_there() -> None:
    assert {"fedhelp", "fedavg", "local"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_papers_preset_and_says_what_it_minimises(name: str) -> None:
    assert "paper" in METHODS[name].presets
    assert "``" in inspect.getdoc(METHODS[name])  # its equation


@every_plan
def test_a_plan_names_files_that_exist(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    assert plan.configs[0] == "configs/train.json"
    for config in plan.configs:
        assert isinstance(json.loads((BUNDLE / config).read_text()), dict)


@every_plan
def test_a_plan_names_networks_that_the_site_has(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    exchanged = {"surrogate" if role == "small" else "proxy"}
    assert {plan.trained} == (exchanged if METHODS[name].exchanges else {"local"})
    assert plan.deployed
    assert set(plan.deployed) <= {plan.trained, *plan.personal, *({"global"} if METHODS[name].exchanges else set())}
    assert set(plan.personal) <= ({"large"} if role == "large" else set())


@every_plan
def test_handlers_can_be_found_and_take_their_settings(name: str, preset: str, role: Role) -> None:
    for config in plan_of(name, preset, role).handlers:
        module, _, kind = config["_target_"].rpartition(".")
        target = getattr(import_module(module), kind)
        assert issubclass(target, LossTerm)
        assert hasattr(target, "attach")
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        inspect.signature(target).bind(**arguments)


@every_plan
def test_a_plan_refers_to_what_the_bundle_has(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    parser = merged(plan)
    for identifier in plan.overlay:
        assert identifier in parser
    for config in plan.handlers:
        for value in config.values():
            if isinstance(value, str) and value.startswith("@"):
                assert value[1:] in parser


@every_plan
def test_without_a_public_set_the_handlers_are_built_and_guidance_is_off(name: str, preset: str, role: Role) -> None:
    parser = merged(plan_of(name, preset, role))
    built = [term for term in parser.get_parsed_content("method_handlers") if term is not None]
    assert [type(term) for term in built] == (
        [ForwardDistillation, RankingDistillation] if (name, role) == ("fedhelp", "large") else []
    )


@every_plan
def test_a_plan_is_plain_config(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    json.dumps([dict(plan.overlay), *(dict(config) for config in plan.handlers)])  # it is kept in the run folder
    assert plan == plan_of(name, preset, role)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        create_method(name, "paper", {"gidance": 1.0})


@pytest.mark.parametrize("name", METHODS)
def test_settings_cannot_be_changed_afterwards(name: str) -> None:
    method = create_method(name, "paper", {})
    with pytest.raises(ValidationError, match=r"frozen|no field"):
        method.settings.guidance = 3.0  # type: ignore[attr-defined]


def test_unknown_names_and_presets_are_key_errors() -> None:
    with pytest.raises(KeyError):
        create_method("fedhelpp", "paper", {})
    with pytest.raises(KeyError):
        create_method("fedhelp", "papers", {})


def test_settings_go_before_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    fedhelp = METHODS["fedhelp"]
    monkeypatch.setattr(fedhelp, "presets", {**fedhelp.presets, "test": {"forward": 0.3, "ranking": 0.1}})
    settings = create_method("fedhelp", "test", {"ranking": 0.4}).settings
    assert (settings.forward, settings.ranking, settings.guidance) == (0.3, 0.4, 1.0)  # type: ignore[attr-defined]


def test_a_server_step_does_nothing_unless_a_method_overrides_it() -> None:
    class Server:
        round = 1
        weights: dict[str, Any] = {}  # noqa: RUF012

        def record(self, event: str, **details: Any) -> None:
            raise AssertionError(event)

    method = create_method("fedavg", "paper", {})
    method.before_first_round(Server())
    method.after_aggregation(Server())
    assert Server.weights == {}


def test_a_handlers_config_names_its_class() -> None:
    config = handler(RankingDistillation, weight=0.5, _disabled_="$False")
    assert config == {
        "_target_": "fedhelp_med.handlers.distillation.RankingDistillation",
        "weight": 0.5,
        "_disabled_": "$False",
    }


# FedHelp


def targets(plan: RolePlan) -> list[str]:
    return [config["_target_"].rpartition(".")[2] for config in plan.handlers]


def test_fedhelp_guides_small_sites_and_distils_both_ways_at_large_ones() -> None:
    small, large = (plan_of("fedhelp", "paper", role) for role in ROLES)
    assert targets(small) == [FoundationGuidance.__name__]
    assert targets(large) == [ForwardDistillation.__name__, RankingDistillation.__name__]
    assert (small.trained, small.personal) == ("surrogate", ())
    assert (large.trained, large.personal) == ("proxy", ("large",))


def test_the_papers_preset_has_the_papers_weights() -> None:
    settings = create_method("fedhelp", "paper", {}).settings
    assert settings.model_dump() == {
        **settings.model_dump(),
        "temperature": 1.0,
        "ranking": 0.2,
        "ranking_loss": "margin",
        "top_k": 1,
        "head": "auxiliary",
    }


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
    }
    (guidance,) = plan_of("fedhelp", "paper", "small", **wanted).handlers
    forward, ranking = plan_of("fedhelp", "paper", "large", **wanted).handlers
    assert {"weight": 0.5, "knowledge_weight": 0.7, "target": "task", "temperature": 2.0}.items() <= guidance.items()
    assert {"weight": 0.3, "temperature": 2.0}.items() <= forward.items()
    assert {"weight": 0.1, "loss": "margin", "top_k": 2, "margin": 0.4}.items() <= ranking.items()


@pytest.mark.parametrize("loss", ["margin", "ranknet", "listmle"])
def test_every_ranking_loss_can_be_chosen(loss: str) -> None:
    parser = merged(plan_of("fedhelp", "paper", "large", ranking_loss=loss))
    _, ranking = parser.get_parsed_content("method_handlers")
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
        ("forward", "much"),
    ],
)
def test_fedhelp_refuses_values_out_of_range(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        create_method("fedhelp", "paper", {key: value})
    assert [problem["loc"] for problem in error.value.errors()] == [(key,)]


def test_large_sites_train_the_large_network_alone_under_local() -> None:
    small, large = (merged(plan_of("local", "paper", role)) for role in ROLES)
    networks = [sum(p.numel() for p in parser.get_parsed_content("network").parameters()) for parser in (small, large)]
    assert networks[0] < networks[1]
    assert large["head"] == "@large_head"


# Nothing branches on a method's name


def mentions(tree: ast.AST) -> list[str]:
    """The lines that compare with, or choose by, a method's name. ``local`` is also what a network is called."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node]
        elif isinstance(node, ast.Dict):
            sides = [key for key in node.keys if key is not None]
        else:
            continue
        texts = {inner.value for side in sides for inner in ast.walk(side) if isinstance(inner, ast.Constant)}
        named = texts & set(METHODS)
        about_method = any("method" in ast.unparse(side).lower() for side in sides)
        if named - {"local"} or (named and about_method):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_the_search_for_branches_finds_them() -> None:
    branches = ['if method == "fedavg": pass', 'if name in ("fedhelp",): pass', 'x = {"fedhelp": 1}[name]']
    branches += ['if method.name != "local": pass', 'match name:\n    case "fedavg": pass']
    assert all(mentions(ast.parse(code)) for code in branches)
    assert not mentions(ast.parse('if row.model == "local": pass'))


def test_nothing_outside_the_methods_branches_on_a_methods_name() -> None:
    root = Path(fedhelp_med.__file__).parent
    modules = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] != "methods"]
    assert len(modules) > 40
    found = {str(path.relative_to(root)): mentions(ast.parse(path.read_text(encoding="utf-8"))) for path in modules}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_base_settings_hold_nothing() -> None:
    assert Settings.model_fields == {}
    assert set(handlers.__all__) >= {"ForwardDistillation", "FoundationGuidance", "RankingDistillation"}
