"""Every method's plans: files that exist, handlers that can be built, settings that are checked."""

import ast
import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from methods_plans import BUNDLE, merged, plan_of
from pydantic import ValidationError

import fedhelp_med
from fedhelp_med import methods
from fedhelp_med.handlers import FoundationGuidance, PublicWarmStart, RankingDistillation
from fedhelp_med.methods import METHODS, ROLES, Method, Role, create_method, handler

EVERY = [(name, preset, role) for name, method in METHODS.items() for preset in method.presets for role in ROLES]
every_plan = pytest.mark.parametrize(("name", "preset", "role"), EVERY)


# All methods


def written(base: type[Method] = Method) -> list[type[Method]]:
    """Every method class of the package, however deep it inherits."""
    children = [child for child in base.__subclasses__() if child.__module__.startswith("fedhelp_med.")]
    return [*children, *(deeper for child in children for deeper in written(child))]


def test_every_method_of_the_folder_is_found_by_a_name_of_its_own() -> None:
    for module in pkgutil.iter_modules(methods.__path__):
        import_module(f"{methods.__name__}.{module.name}")
    assert all("name" in vars(method) for method in written())  # none inherits another's
    assert sorted(method.name for method in written()) == sorted(METHODS)
    assert all(METHODS[method.name] is method for method in written())


def test_the_methods_that_others_are_compared_with_are_there() -> None:
    assert {"fedhelp", "local", "fedavg", "fedavg-public", "fedprox", "fedbn", "fml", "fedmd"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_both_presets_and_says_what_it_does(name: str) -> None:
    assert {"paper", "recommended"} <= set(METHODS[name].presets)
    assert METHODS[name].__doc__
    for preset, values in METHODS[name].presets.items():
        assert METHODS[name].settings_type(**values).model_dump().items() >= values.items()
        assert isinstance(create_method(name, preset, {}), METHODS[name])


@every_plan
def test_a_plan_names_files_that_exist(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    assert plan.configs[0] == "configs/train.json"
    for config in plan.configs:
        assert isinstance(json.loads((BUNDLE / config).read_text()), dict)


@every_plan
def test_a_plan_names_networks_that_the_site_has(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    travels = METHODS[name].exchange == "weights"
    exchanged = "surrogate" if role == "small" else "proxy"
    assert plan.trained == (exchanged if travels else "local" if name == "local" else "own")
    assert plan.deployed
    assert set(plan.deployed) <= {
        plan.trained,
        *(("large",) if role == "large" else ()),
        *(("global",) if travels else ()),
    }


def components(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every part of a config that names a class, however deep."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from components(value)


@every_plan
def test_handlers_can_be_found_and_take_their_settings(name: str, preset: str, role: Role) -> None:
    for config in plan_of(name, preset, role).handlers:
        for component in components(config):
            target = locate(component["_target_"])
            assert target is not None, component
            inspect.signature(target).bind(**{key: value for key, value in component.items() if key[0] != "_"})
        assert callable(getattr(locate(config["_target_"]), "attach", None))


@every_plan
def test_a_plan_refers_to_what_the_bundle_has(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    parser = merged(plan)
    for identifier in (*plan.constants, *plan.overlay):
        assert identifier in parser
    for config in plan.handlers:
        for value in config.values():
            if isinstance(value, str) and value.startswith("@"):
                assert value[1:] in parser


@every_plan
def test_without_a_public_set_the_handlers_are_built_and_its_own_are_off(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    built = merged(plan).get_parsed_content("method_handlers")
    public = [config["_target_"] for config in plan.handlers if "_disabled_" in config]
    assert len(built) == len(plan.handlers) - len(public)
    assert not {FoundationGuidance, PublicWarmStart} & {type(term) for term in built}


@every_plan
def test_a_plan_is_plain_config(name: str, preset: str, role: Role) -> None:
    plan = plan_of(name, preset, role)
    json.dumps([plan.constants, plan.overlay, *plan.handlers])  # it is kept in the run folder
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


@pytest.mark.parametrize("name", ["fedavg", "local", "fedprox", "fedbn", "fml"])
def test_a_server_step_does_nothing_unless_a_method_overrides_it(name: str) -> None:
    method, untouchable = create_method(name, "paper", {}), object()
    method.before_first_round(untouchable)  # type: ignore[arg-type]
    method.after_aggregation(untouchable)  # type: ignore[arg-type]


def test_a_handlers_config_names_its_class() -> None:
    config = handler(RankingDistillation, weight=0.5, _disabled_="$False")
    assert config == {
        "_target_": "fedhelp_med.handlers.distillation.RankingDistillation",
        "weight": 0.5,
        "_disabled_": "$False",
    }


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
