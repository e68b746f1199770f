"""Foundation models: how they are asked, once, and where their answers are kept."""

from fedhelp_med.foundation.acquisition import acquire
from fedhelp_med.foundation.addresses import content_key
from fedhelp_med.foundation.coverage import cover
from fedhelp_med.foundation.exchange import export_ledger, import_ledger
from fedhelp_med.foundation.guard import PrivacyGuard
from fedhelp_med.foundation.knowledge import PublicKnowledge
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.limits import Limits
from fedhelp_med.foundation.local import LocalFoundationModel, load_local_model
from fedhelp_med.foundation.oip import OipModel
from fedhelp_med.foundation.opening import open_model
from fedhelp_med.foundation.planning import plan_acquisition
from fedhelp_med.foundation.protocol import FoundationModel, InputSpec, ModelDescription, check_answer
from fedhelp_med.foundation.quality import Quality
from fedhelp_med.foundation.rest import RestModel
from fedhelp_med.foundation.standin import train_stand_in
from fedhelp_med.foundation.totals import LedgerSummary
from fedhelp_med.foundation.transport import Reply, Request

__all__ = [
    "FoundationModel",
    "InputSpec",
    "Ledger",
    "LedgerSummary",
    "Limits",
    "LocalFoundationModel",
    "ModelDescription",
    "OipModel",
    "PrivacyGuard",
    "PublicKnowledge",
    "Quality",
    "Reply",
    "Request",
    "RestModel",
    "acquire",
    "check_answer",
    "content_key",
    "cover",
    "export_ledger",
    "import_ledger",
    "load_local_model",
    "open_model",
    "plan_acquisition",
    "train_stand_in",
]
