"""The shape of the package: imports go downward, the lower rooms stay light, the command line starts fast."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fedhelp_med

ROOT = Path(fedhelp_med.__file__).parent
ROOMS = [
    "common",
    "losses",
    "metrics",
    "networks",
    "transforms",
    "data",
    "foundation",
    "engines",
    "handlers",
    "methods",
    "federation",
    "export",
    "report",
    "prediction",
    "cli",
]
"""From the bottom up: a room imports itself and the rooms before it."""

LIGHT = ("common", "losses", "metrics", "networks", "engines", "handlers")
"""What runs wherever a bundle is trained or served, MONAI Label's environment included."""


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports, wherever in it; ``from a import b`` counts as ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_rooms(path: Path) -> set[str]:
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("fedhelp_med.")}
    return {name for name in inside if not name.startswith("__")}  # such as __version__


def test_every_folder_of_the_package_is_a_known_room() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(ROOMS)
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_downward_only(room: str) -> None:
    allowed = {"common", "transforms"} if room == "transforms" else set(ROOMS[: ROOMS.index(room) + 1])
    upward = {str(path.relative_to(ROOT)): imported_rooms(path) - allowed for path in modules(room)}
    assert {path: rooms for path, rooms in upward.items() if rooms} == {}


@pytest.mark.parametrize("room", LIGHT)
def test_the_light_rooms_need_only_torch_monai_and_ignite(room: str) -> None:
    third_party = {"torch", "monai", "ignite"} | (
        {"numpy"} if room in ("common", "metrics") else set()
    )  # which torch has anyway
    for path in modules(room):
        outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"fedhelp_med"}
        assert outside <= third_party, path
        assert imported_rooms(path) <= set(LIGHT), path


def test_the_package_itself_imports_nothing() -> None:
    assert imports(ROOT / "__init__.py") == set()


def test_configs_name_transforms_by_the_packages_path() -> None:
    # ``transforms.X`` of the repository's root would be another class, and absent from an installed package.
    def targets(config: object) -> set[str]:
        if isinstance(config, dict):
            own = {config["_target_"]} if isinstance(config.get("_target_"), str) else set()
            return own.union(*(targets(value) for value in config.values()))
        return set().union(*(targets(value) for value in config)) if isinstance(config, list) else set()

    configs = sorted((ROOT / "bundles").rglob("*.json"))
    assert configs
    for path in configs:
        assert not [name for name in targets(json.loads(path.read_text())) if name.startswith("transforms.")], path


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = ["torch", "monai", "ignite", "numpy", "nibabel", "SimpleITK", "nilearn", "pydantic"]
    code = f"import sys, fedhelp_med.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=120)
    assert out.stdout.strip() == "[]"
