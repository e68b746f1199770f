"""Networks: a tap on any network's features, the auxiliary head, small and large factories, normalisation."""

from fedhelp_med.networks.auxiliary import auxiliary_head
from fedhelp_med.networks.ensemble import MeanOfProbabilities, balancing_offset
from fedhelp_med.networks.factories import (
    large_classifier,
    large_segmenter,
    small_classifier,
    small_segmenter,
)
from fedhelp_med.networks.modules import named_module
from fedhelp_med.networks.normalization import (
    LocalLayers,
    batch_norm_keys,
    batch_norm_layers,
    frozen_statistics,
    group_normalized,
    local_keys,
    normalization_keys,
)
from fedhelp_med.networks.tap import FeatureTap

__all__ = [
    "FeatureTap",
    "LocalLayers",
    "MeanOfProbabilities",
    "auxiliary_head",
    "balancing_offset",
    "batch_norm_keys",
    "batch_norm_layers",
    "frozen_statistics",
    "group_normalized",
    "large_classifier",
    "large_segmenter",
    "local_keys",
    "named_module",
    "normalization_keys",
    "small_classifier",
    "small_segmenter",
]
