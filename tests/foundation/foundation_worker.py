"""A process of its own for the tests that kill one.

``acquire DATALIST LEDGER [N]`` acquires in batches of 4 and hangs within the Nth call, having printed ``hangs``.
``store LEDGER`` stores batches of 50 answers for ever, printing a line for each.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from foundation_phantoms import CountingNetwork, make_model

from fedhelp_med.foundation import Ledger, acquire


class HangingNetwork(CountingNetwork):
    """Answers n - 1 batches."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(self.batches) + 1 == self.n:
            print("hangs", flush=True)
            time.sleep(600)
        return super().forward(images)


def store_for_ever(path: Path) -> None:
    model = make_model()
    with Ledger(path) as ledger:
        while True:
            first = ledger.summary().calls * 50
            keys = [f"{first + number:064x}" for number in range(50)]
            call = ledger.claim(model, keys).call
            ledger.store(call, {key: np.full(14, call, dtype=np.float32) for key in keys})
            print(call, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["store", path]:
            store_for_ever(Path(path))
        case ["acquire", datalist, path, *n]:
            network = HangingNetwork(int(n[0]) if n else 0)
            acquire(Path(datalist), make_model(network), Path(path), batch_size=4)
            print(sum(network.batches), flush=True)
