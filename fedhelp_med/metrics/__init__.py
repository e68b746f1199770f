"""How good answers are, in one place for evaluators, deployment, reports and foundation models.

Plain functions of logits (:func:`auc`, :func:`balanced_accuracy`, :func:`study_dice`), and of probabilities under many
weightings at once, as a bootstrap needs them (:func:`one_against_rest_auc`, :func:`weighted_balanced_accuracy`).
"""

from fedhelp_med.metrics.classification import (
    accuracy,
    auc,
    balanced_accuracy,
    chance_corrected,
    class_sums,
    log_odds,
    mean_recall,
    recognised,
)
from fedhelp_med.metrics.dice import class_dice, mean_dice, study_dice
from fedhelp_med.metrics.weighted import one_against_rest_auc, weighted_auc, weighted_balanced_accuracy

__all__ = [
    "accuracy",
    "auc",
    "balanced_accuracy",
    "chance_corrected",
    "class_dice",
    "class_sums",
    "log_odds",
    "mean_dice",
    "mean_recall",
    "one_against_rest_auc",
    "recognised",
    "study_dice",
    "weighted_auc",
    "weighted_balanced_accuracy",
]
