"""What an acquisition costs beside the server's own time, and how much memory it needs: printed, never asserted."""

import json
import statistics
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from triton_service import MODEL, describe, need_triton, script_of_docs, triton

from fedhelp_med.foundation import acquire, open_model

pytestmark = pytest.mark.benchmark

REPEATS, IMAGES = 2, 600
MEASURE = """
import resource, sys
from pathlib import Path
from fedhelp_med.foundation import acquire, open_model
datalist, model, ledger = map(Path, sys.argv[1:])
summary = acquire(datalist, open_model(model), ledger, concurrency=2)
print(summary.asked, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.fixture(scope="module")
def images(shared_data, tmp_path_factory):
    need_triton()
    folder = tmp_path_factory.mktemp("public")
    with zipfile.ZipFile(shared_data / "mednist_300_per_class.zip") as archive:
        archive.extractall(folder)
    return sorted(folder.rglob("*.jpeg"))


def write_datalist(path, images):
    path.write_text(json.dumps({"name": "public", "public": True, "training": [{"image": str(i)} for i in images]}))
    return path


def bare_loop(url, name, batches):
    """The server's own throughput: prepared batches, one after the other, by tritonclient alone."""
    from tritonclient.http import InferenceServerClient, InferInput

    with InferenceServerClient(url) as client:
        for batch in batches:
            tensor = InferInput("image", list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)
            client.infer(name, [tensor]).as_numpy("logits")


def compare(model, url, name, images, folder):
    """Return the median of (acquisition, bare loop) in images per second."""
    paths = images[:: len(images) // IMAGES][:IMAGES]
    datalist = write_datalist(folder / "datalist.json", paths)
    size = model.batch_limit()
    pixels = [model.input.preprocess(path) for path in paths]
    if model._rows_first:
        pixels = [one.swapaxes(1, 2) for one in pixels]
    batches = [np.ascontiguousarray(np.stack(pixels[first : first + size])) for first in range(0, len(paths), size)]
    rates = ([], [])
    for repeat in range(REPEATS + 1):  # the first warms up
        ledger = folder / f"{repeat}.sqlite"
        begin = time.perf_counter()
        summary = acquire(datalist, model, ledger, concurrency=2)
        middle = time.perf_counter()
        bare_loop(url, name, batches)
        if repeat:
            rates[0].append(summary.asked / (middle - begin))
            rates[1].append(len(paths) / (time.perf_counter() - middle))
    return tuple(map(statistics.median, rates))


def test_throughput(images, tmp_path):
    labelled = tmp_path / "labelled"
    for path in images[::30]:
        (labelled / path.parent.name).mkdir(parents=True, exist_ok=True)
        (labelled / path.parent.name / path.name).symlink_to(path)
    with triton(script_of_docs("serve_probe.py", tmp_path), [str(labelled)], [], "probe", tmp_path) as port:
        model = open_model(tmp_path / "foundation.json")
        ours, bare = compare(model, f"127.0.0.1:{port}", "probe", images, tmp_path)
        model.close()
    print(f"\n  ImageNet backbone, 128 x 128: acquisition {ours:.0f} images/s, bare tritonclient {bare:.0f}")
    print(f"  throughput of acquisition / bare tritonclient loop: {ours / bare:.3f} (target 0.9)", flush=True)


def test_memory(images, tmp_path):
    peaks = {}
    with triton(MODEL, [], [str(tmp_path / "seen.txt"), "0"], "means", tmp_path) as port:
        about = {"classes": ["red", "green", "blue"], "input": {"channels": 3, "size": [32, 32]}}
        file = describe(tmp_path / "foundation.json", url=f"http://127.0.0.1:{port}", model="means", **about)
        for count in (450, 1800):
            datalist = write_datalist(tmp_path / f"{count}.json", images[:: len(images) // count])
            command = [sys.executable, "-c", MEASURE, datalist, file, tmp_path / f"{count}.sqlite"]
            out = subprocess.run(list(map(str, command)), check=True, capture_output=True, encoding="utf-8").stdout
            asked, peak = out.split()
            peaks[count] = float(peak)
            print(f"\n  {asked} images: peak {float(peak):.0f} MiB", flush=True)
    print(f"  peak memory for 4n / n images: {peaks[1800] / peaks[450]:.3f} (target 1)", flush=True)
