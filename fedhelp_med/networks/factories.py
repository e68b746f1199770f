"""Small and large networks over ``monai.networks.nets``, none with batch normalisation.

Sizes are for 2 cores: a clinic's small network, and the large one of a hospital without a GPU. A hospital that has
one names a larger network in the federation file (``roles.large.network``).
"""

from typing import Any

from monai.networks.nets import BasicUNet, DenseNet
from torch import nn

from fedhelp_med.networks.normalization import batch_norm_layers

GROUP_NORM = ("group", {"num_groups": 4})
"""MONAI's description of the normalisation of every network here."""

CLASSIFIER_HEAD = "class_layers.out"
SEGMENTER_HEAD = "final_conv"


def small_classifier(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """A DenseNet of about 20,000 parameters in 2-D; head ``class_layers.out``; logits ``B, out_channels``."""
    return _dense_net(spatial_dims, in_channels, out_channels, features=16, growth=8, blocks=(2, 2, 2))


def large_classifier(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """A DenseNet of about 180,000 parameters in 2-D; head ``class_layers.out``; logits ``B, out_channels``."""
    return _dense_net(spatial_dims, in_channels, out_channels, features=32, growth=16, blocks=(4, 4, 4))


def small_segmenter(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """A BasicUNet of about 44,000 parameters in 2-D; head ``final_conv``; logits ``B, out_channels, spatial``."""
    return _basic_unet(spatial_dims, in_channels, out_channels, features=(8, 8, 16, 16, 32, 8))


def large_segmenter(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """A BasicUNet of about 460,000 parameters in 2-D; head ``final_conv``; logits ``B, out_channels, spatial``."""
    return _basic_unet(spatial_dims, in_channels, out_channels, features=(16, 24, 48, 64, 96, 16))


def _dense_net(
    spatial_dims: int, in_channels: int, out_channels: int, *, features: int, growth: int, blocks: tuple[int, ...]
) -> nn.Module:
    return _without_batch_norm(
        DenseNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            init_features=features,
            growth_rate=growth,
            block_config=blocks,
            norm=GROUP_NORM,
        )
    )


def _basic_unet(spatial_dims: int, in_channels: int, out_channels: int, *, features: tuple[int, ...]) -> nn.Module:
    return _without_batch_norm(
        BasicUNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            features=features,
            norm=GROUP_NORM,
        )
    )


def _without_batch_norm(network: Any) -> nn.Module:
    assert isinstance(network, nn.Module)
    if layers := batch_norm_layers(network):
        raise AssertionError(f"batch normalisation in {', '.join(layers)}")
    return network
