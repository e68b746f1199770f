"""A trained network on new images: what ``fedhelp predict`` does."""

from fedhelp_med.prediction.job import predict_source
from fedhelp_med.prediction.model import load_model

__all__ = ["load_model", "predict_source"]
