"""Derived seeds: every (seed, site, round, purpose) has a random stream of its own.

Numbers then depend on what is done, never on the order or the process in which it is done.
"""

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: object) -> int:
    """Return a 32-bit seed that is a hash of ``parts`` (numpy takes no more than 32 bits).

    Example:
        >>> derive_seed(0, "clinic-a", 3) == derive_seed(0, "clinic-a", 3)
        True
        >>> derive_seed(0, "clinic-a", 3) == derive_seed(0, "clinic-a", 4)
        False
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and random."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
