"""Handlers: each adds one term to a trainer's loss; and the metrics of an evaluator."""

from fedhelp_med.handlers.distillation import ForwardDistillation, RankingDistillation
from fedhelp_med.handlers.guidance import KNOWLEDGE, FoundationGuidance
from fedhelp_med.handlers.metrics import SplitMetric, accuracy, auc, balanced_accuracy, logits_and_labels
from fedhelp_med.handlers.proximal import ProximalTerm
from fedhelp_med.handlers.schedule import Constant, FirstPart, LinearWarmUp, Schedule, as_schedule
from fedhelp_med.handlers.term import LossTerm

__all__ = [
    "KNOWLEDGE",
    "Constant",
    "FirstPart",
    "ForwardDistillation",
    "FoundationGuidance",
    "LinearWarmUp",
    "LossTerm",
    "ProximalTerm",
    "RankingDistillation",
    "Schedule",
    "SplitMetric",
    "accuracy",
    "as_schedule",
    "auc",
    "balanced_accuracy",
    "logits_and_labels",
]
