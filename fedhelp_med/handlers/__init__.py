"""Handlers: what a method adds to a trainer, and what an evaluator tells.

Most add one term to a loss (:class:`LossTerm`), with a weight that may follow a schedule. Others act before the private
data are seen (:class:`PublicWarmStart`, :class:`PublicConsensus`), set learning rates (:class:`CosineOverRounds`), or
collect metrics and the results of single studies.
"""

from fedhelp_med.handlers.consensus import Messenger, PublicConsensus
from fedhelp_med.handlers.dice import DICE_MEAN, StudyDice, dice_metrics, dice_names
from fedhelp_med.handlers.distillation import BackwardDistillation, ForwardDistillation, RankingDistillation
from fedhelp_med.handlers.guidance import KNOWLEDGE, FoundationGuidance
from fedhelp_med.handlers.image_weights import ClassBalance, ImageWeights, Nearness, nearness
from fedhelp_med.handlers.learning_rate import CosineOverRounds
from fedhelp_med.handlers.mean_loss import MeanLoss
from fedhelp_med.handlers.metrics import SplitMetric, logits_and_labels
from fedhelp_med.handlers.proximal import ProximalTerm
from fedhelp_med.handlers.public_training import train_on_public
from fedhelp_med.handlers.schedule import (
    GATE,
    Constant,
    Schedule,
    UnlessShut,
    WhileAhead,
    as_schedule,
)
from fedhelp_med.handlers.studies import StudyResults, class_probabilities
from fedhelp_med.handlers.term import LossTerm
from fedhelp_med.handlers.warm_start import PublicWarmStart

__all__ = [
    "DICE_MEAN",
    "GATE",
    "KNOWLEDGE",
    "BackwardDistillation",
    "ClassBalance",
    "Constant",
    "CosineOverRounds",
    "ForwardDistillation",
    "FoundationGuidance",
    "ImageWeights",
    "LossTerm",
    "MeanLoss",
    "Messenger",
    "Nearness",
    "ProximalTerm",
    "PublicConsensus",
    "PublicWarmStart",
    "RankingDistillation",
    "Schedule",
    "SplitMetric",
    "StudyDice",
    "StudyResults",
    "UnlessShut",
    "WhileAhead",
    "as_schedule",
    "class_probabilities",
    "dice_metrics",
    "dice_names",
    "logits_and_labels",
    "nearness",
    "train_on_public",
]
