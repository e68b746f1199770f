"""Foundation models: how they are asked, once, and where their answers are kept."""

from fedhelp_med.foundation.acquisition import AcquisitionSummary, acquire
from fedhelp_med.foundation.addresses import content_key
from fedhelp_med.foundation.knowledge import PublicKnowledge
from fedhelp_med.foundation.ledger import Ledger, LedgerSummary
from fedhelp_med.foundation.local import LocalFoundationModel, load_local_model
from fedhelp_med.foundation.protocol import FoundationModel, InputSpec, ModelDescription, check_answer
from fedhelp_med.foundation.standin import train_stand_in

__all__ = [
    "AcquisitionSummary",
    "FoundationModel",
    "InputSpec",
    "Ledger",
    "LedgerSummary",
    "LocalFoundationModel",
    "ModelDescription",
    "PublicKnowledge",
    "acquire",
    "check_answer",
    "content_key",
    "load_local_model",
    "train_stand_in",
]
