"""Finding and replacing a module by its dotted name."""

from torch import nn

from fedhelp_med.common.errors import InputError


def named_module(network: nn.Module, name: str) -> nn.Module:
    """Return the sub-module ``name`` of ``network``.

    Raises:
        InputError: when there is none; the message lists the last modules, where heads usually are.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if not name or name not in modules:
        parametrised = [key for key, module in modules.items() if key and any(True for _ in module.parameters())]
        raise InputError(
            f"head: {type(network).__name__} has no module named {name!r}; "
            f"name its last layer, one of: {', '.join(parametrised[-6:])}"
        )
    return modules[name]


def set_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` in the place ``name`` of ``network``."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
