"""A model for a real Triton server, run by the Python of its own environment: ``triton_model.py PORT RECORD DELAY``.

Its logits are the means of the channels. Before it answers a batch, after DELAY seconds, it writes the SHA-256 of each
image to the file RECORD, one a line.
"""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

SHAPE = (3, 32, 32)
LOCAL = "127.0.0.1"


def main(port: int, record: str, delay: float) -> None:
    @batch
    def infer(image):
        time.sleep(delay)
        with Path(record).open("a", encoding="ascii") as file:
            file.writelines(hashlib.sha256(one.tobytes()).hexdigest() + "\n" for one in image)
        return {"logits": image.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)}

    config = TritonConfig(
        http_address=LOCAL,
        http_port=port,
        grpc_address=LOCAL,
        grpc_port=port + 1,
        metrics_address=LOCAL,
        metrics_port=port + 2,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="means",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=SHAPE)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=SHAPE[:1])],
            config=ModelConfig(max_batch_size=32),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
