"""Networks: a tap on any network's features, the auxiliary head, small and large factories, normalisation."""

from fedhelp_med.networks.auxiliary import auxiliary_head
from fedhelp_med.networks.ensemble import MeanOfProbabilities
from fedhelp_med.networks.factories import (
    large_classifier,
    large_segmenter,
    small_classifier,
    small_segmenter,
)
from fedhelp_med.networks.modules import named_module
from fedhelp_med.networks.normalization import (
    batch_norm_keys,
    batch_norm_layers,
    frozen_statistics,
    group_normalized,
)
from fedhelp_med.networks.tap import FeatureTap

__all__ = [
    "FeatureTap",
    "MeanOfProbabilities",
    "auxiliary_head",
    "batch_norm_keys",
    "batch_norm_layers",
    "frozen_statistics",
    "group_normalized",
    "large_classifier",
    "large_segmenter",
    "named_module",
    "small_classifier",
    "small_segmenter",
]
