"""The auxiliary head g of a small site (design: the surrogate, arXiv 2412.19654)."""

import copy
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedhelp_med.common.errors import InputError
from fedhelp_med.networks.modules import named_module, set_module


def auxiliary_head(network: nn.Module, head: str, channels: int) -> nn.Module:
    """Return a re-initialised copy of ``network``'s module ``head`` with ``channels`` outputs.

    The last linear or convolution layer of the head decides its outputs; everything before it is copied in
    shape and initialised anew. The copy shares nothing with ``network``, lies on the same device and learns, even
    if the original is frozen.

    Args:
        network: the network whose features the new head will read.
        head: the dotted name of the head to imitate.
        channels: classes of the public set or of the foundation model.

    Raises:
        InputError: when there is no such module, or it holds neither a linear nor a convolution layer.
    """
    original = named_module(network, head)
    layers = [(name, layer) for name, layer in original.named_modules() if isinstance(layer, nn.Linear | _ConvNd)]
    if not layers:
        raise InputError(
            f"head: {head!r} of {type(network).__name__} is a {type(original).__name__} without a linear or "
            "convolution layer; name the module that produces the logits"
        )
    name, last = layers[-1]
    replacement = _with_outputs(last, channels)
    if name == "":
        return replacement
    copied = copy.deepcopy(original)
    set_module(copied, name, replacement)
    for module in copied.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return copied.requires_grad_()


def _with_outputs(layer: nn.Linear | _ConvNd, channels: int) -> nn.Module:
    options: dict[str, Any] = {
        "bias": layer.bias is not None,
        "device": layer.weight.device,
        "dtype": layer.weight.dtype,
    }
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, channels, **options)
    for name in ("kernel_size", "stride", "dilation", "padding_mode"):
        options[name] = getattr(layer, name)
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    # The class of torch itself: a user's subclass may be constructed differently.
    kind = next(base for base in type(layer).__mro__ if base.__module__ == _ConvNd.__module__)
    replacement: nn.Module = kind(layer.in_channels, channels, padding=layer.padding, **options)
    return replacement
