"""The one engine of our own: a large network and its proxy trained in one pass."""

from fedhelp_med.engines.reciprocal import LARGE_LOSS, LARGE_PRED, ReciprocalTrainer

__all__ = ["LARGE_LOSS", "LARGE_PRED", "ReciprocalTrainer"]
