"""A trained network on new images: what ``fedhelp predict`` does."""

from fedhelp_med.prediction.job import Outcome, predict_source
from fedhelp_med.prediction.model import Model, load_model

__all__ = ["Model", "Outcome", "load_model", "predict_source"]
