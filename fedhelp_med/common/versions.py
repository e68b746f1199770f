"""Which software a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("fedhelp-med", "torch", "monai", "pytorch-ignite", "numpy")


def versions() -> dict[str, str]:
    """Return the versions on which a run's numbers depend, by name."""
    found = {"Python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
