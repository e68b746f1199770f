"""How fast the ledger is written and read, one commit per batch. Printed, never asserted."""

import hashlib
import time

import numpy as np
import pytest

from fedhelp_med.foundation import InputSpec, Ledger, ModelDescription, export_ledger, import_ledger

pytestmark = pytest.mark.benchmark

MODEL = ModelDescription("benchmark", "1", (), InputSpec(1, (8, 8)))


@pytest.mark.parametrize(("images", "shape", "batch"), [(10_000, (14,), 64), (200, (2, 256, 256), 16)])
def test_ledger(tmp_path, images, shape, batch):
    random = np.random.default_rng(0)
    answers = random.normal(size=(images, *shape)).astype(np.float16)
    keys = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(images)]
    path, file = tmp_path / "knowledge.sqlite", tmp_path / "knowledge.safetensors"
    begin = time.perf_counter()
    with Ledger(path) as ledger:
        for first in range(0, images, batch):
            part = slice(first, first + batch)
            ledger.store(ledger.claim(MODEL, keys[part]).call, dict(zip(keys[part], answers[part], strict=True)))
    times = {"write (claim and store)": time.perf_counter() - begin}
    for name in ("read", "read again"):
        with Ledger(path, readonly=True) as ledger:
            begin = time.perf_counter()
            found = ledger.answers(keys)
            times[name] = time.perf_counter() - begin
    assert all(np.array_equal(found[key], answer) for key, answer in zip(keys, answers, strict=True))
    begin = time.perf_counter()
    export_ledger(path, file)
    times["export"] = time.perf_counter() - begin
    begin = time.perf_counter()
    import_ledger(file, tmp_path / "there.sqlite")
    times["import"] = time.perf_counter() - begin
    shown = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())
    print(f"\n  {images} answers of {' x '.join(map(str, shape))} float16: {shown}", flush=True)
