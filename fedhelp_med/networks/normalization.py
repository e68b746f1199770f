"""Batch normalisation in a federation: what to do with statistics that belong to a site.

The networks that this toolkit builds have none (group normalisation behaves the same at every site and at any
batch size). A user's own network may; the federation file then says how its layers travel:
``average`` (weights and running statistics are exchanged and averaged like the rest) or
``keep-local`` (they never leave the site: FedBN, Li et al. 2021, arXiv 2102.07623).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fedhelp_med.networks.modules import set_module

LocalLayers = Literal["none", "batch-norm", "normalization"]
"""Layers that are not exchanged."""


def batch_norm_layers(network: nn.Module) -> list[str]:
    """Return the dotted names of the batch-normalisation layers of ``network``."""
    return [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def batch_norm_keys(network: nn.Module) -> frozenset[str]:
    """Return the state keys that belong to batch-normalisation layers: weights, statistics, counters."""
    modules = dict(network.named_modules())
    return frozenset(
        f"{name}.{key}" if name else key for name in batch_norm_layers(network) for key in modules[name].state_dict()
    )


def group_normalized(network: nn.Module, groups: int = 4) -> nn.Module:
    """Replace every batch-normalisation layer of ``network`` by a new group-normalisation layer, in place.

    MONAI's ResNet keeps batch normalisation in its blocks even when told otherwise. Where ``groups`` does not
    divide the channels, their greatest common divisor is used.
    """
    modules = dict(network.named_modules())
    for name in batch_norm_layers(network):
        layer = modules[name]
        assert isinstance(layer, _BatchNorm)
        channels = layer.num_features
        replacement = nn.GroupNorm(math.gcd(groups, channels), channels, eps=layer.eps, affine=layer.affine)
        set_module(network, name, replacement.to(layer.weight) if layer.affine else replacement)
    if remaining := batch_norm_layers(network):
        raise AssertionError(f"batch normalisation remains in {', '.join(remaining)}")
    return network


def normalization_keys(network: nn.Module) -> frozenset[str]:
    """Return the state keys of all normalisation layers: batch, group, instance and layer normalisation."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, module in network.named_modules()
        if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
        for key in module.state_dict()
    )


def local_keys(network: nn.Module, layers: LocalLayers) -> frozenset[str]:
    """Return the state keys that stay at a site when ``layers`` do."""
    if layers == "batch-norm":
        return batch_norm_keys(network)
    return normalization_keys(network) if layers == "normalization" else frozenset()


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Let batches pass in training mode without moving any running statistic.

    The public batch is normalised by its own statistics, as in training, but leaves no trace in those that the
    network uses for patients.
    """
    moving = [
        (module, module.running_mean, module.running_var)
        for module in network.modules()
        if isinstance(module, _NormBase) and module.track_running_stats and module.training
    ]
    for module, _, _ in moving:
        module.track_running_stats = False
        module.running_mean = module.running_var = None  # instance normalisation moves whatever it holds
    try:
        yield
    finally:
        for module, mean, variance in moving:
            module.track_running_stats = True
            module.running_mean, module.running_var = mean, variance
