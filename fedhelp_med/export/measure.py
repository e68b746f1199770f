"""Time and memory of one answer, in a process of its own that imports nothing else.

``python -m fedhelp_med.export.measure onnx model.onnx "[1, 64, 64]"`` or ``... torch RUN SITE``.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy and torch are imported

KIB = 1024
SECONDS = 1.0
SLOWEST = 5
"""At least so many answers are timed, however long they take."""

# Processor time of all threads: other programs take turns with a slow answer more often than with a fast one.
clock = time.process_time if time.get_clock_info("process_time").resolution < 1e-5 else time.perf_counter


def with_onnx(file: str, shape: str) -> Callable[[], object]:
    """Return a function that answers once in onnxruntime."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, *json.loads(shape)), dtype=np.float32)
    return lambda: session.run(None, {"image": image})


def with_torch(run: str, site: str) -> Callable[[], object]:
    """Return a function that answers once in torch."""
    import torch

    from fedhelp_med.export.deployed import read_deployed

    torch.set_num_threads(1)
    deployed = read_deployed(Path(run), site)
    network, image = deployed.network(), torch.randn(1, *deployed.input_shape())

    def answer() -> object:
        with torch.inference_mode():
            return network(image)

    return answer


def main(kind: str, *arguments: str) -> None:
    """Measure and write JSON to standard output."""
    answer = {"onnx": with_onnx, "torch": with_torch}[kind](*arguments)
    for _ in range(3):
        answer()
    times: list[float] = []
    while len(times) < SLOWEST or sum(times) < SECONDS:
        begin = clock()
        answer()
        times.append(clock() - begin)
    sys.stdout.write(json.dumps({"milliseconds": 1000 * median(times), "megabytes": peak_memory()}) + "\n")


def peak_memory() -> float:
    """Return the largest resident size of this process so far in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent had before this program was loaded
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * KIB / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIB) / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
