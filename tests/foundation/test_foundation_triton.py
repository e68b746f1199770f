"""A real Triton server: an acquisition asks for each image once, also when it is killed; the page's scripts work."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from triton_service import MODEL, Gate, describe, need_triton, script_of_docs, triton

from fedhelp_med.foundation import InputSpec, Ledger, acquire, content_key, load_local_model, open_model

pytestmark = pytest.mark.service

SPEC = InputSpec(3, (32, 32))
BATCH, CONCURRENCY, KILLS = 16, 2, 5
BUNDLE = Path(__file__).parents[2] / "bundles" / "fedhelp_classification"
WORKER = """
import sys
from pathlib import Path
from fedhelp_med.foundation import acquire, open_model
datalist, model, ledger, batch, concurrency = sys.argv[1:]
acquire(Path(datalist), open_model(model), Path(ledger), batch_size=int(batch), concurrency=int(concurrency))
"""


@pytest.fixture(scope="module")
def public(shared_data, tmp_path_factory):
    """1,800 images of six kinds, as a public datalist without labels."""
    need_triton()
    folder = tmp_path_factory.mktemp("public")
    with zipfile.ZipFile(shared_data / "mednist_300_per_class.zip") as archive:
        archive.extractall(folder)
    paths = sorted(folder.rglob("*.jpeg"))
    assert len(paths) == 1800
    return describe_public(folder, paths)


def describe_public(folder, paths):
    file = folder / "datalist.json"
    items = [{"image": str(path.relative_to(folder))} for path in paths]
    file.write_text(json.dumps({"name": folder.name, "public": True, "training": items}))
    return file


class Means:
    """The counting model behind a gate."""

    def __init__(self, port, record, folder):
        self.gate = Gate(port)
        self.record = record
        url = f"http://127.0.0.1:{self.gate.port}"
        about = {"classes": ["red", "green", "blue"], "input": SPEC.to_dict(), "batch_size": BATCH}
        self.file = describe(folder / "foundation.json", url=url, model="means", **about)

    @property
    def seen(self):
        """How often each image arrived."""
        return Counter(self.record.read_text().split() if self.record.exists() else ())


@pytest.fixture
def means(tmp_path):
    record = tmp_path / "seen.txt"
    with triton(MODEL, [], [str(record), "0.02"], "means", tmp_path) as port:
        served = Means(port, record, tmp_path)
        yield served
        served.gate.close()


def test_every_image_is_asked_once_and_never_again(public, means, tmp_path):
    ledger = tmp_path / "knowledge.sqlite"
    model = open_model(means.file)
    first = acquire(public, model, ledger, concurrency=CONCURRENCY)
    assert first.asked + first.already_known == 1800  # some are copies of others
    assert first.asked == len(means.seen) == means.seen.total()
    assert first.calls == -(-first.asked // BATCH)
    with Ledger(ledger, readonly=True) as book:
        path = str(sorted(public.parent.rglob("*.jpeg"))[0])
        pixels = SPEC.preprocess(path)
        answer = book.answers([key := content_key(pixels, model)])[key]
        np.testing.assert_allclose(answer, pixels.mean(axis=(1, 2)), atol=1e-6)
        assert book.summary().images == first.asked
    model.close()

    connections = means.gate.connections
    assert connections >= 1
    again = acquire(public, open_model(means.file), ledger, concurrency=CONCURRENCY)
    assert (again.asked, again.calls) == (0, 0)
    assert means.gate.connections == connections  # not even metadata were asked for
    assert means.seen.total() == first.asked


def test_killed_five_times(public, means, tmp_path):
    ledger = tmp_path / "knowledge.sqlite"
    command = [sys.executable, "-c", WORKER, public, means.file, ledger, BATCH, CONCURRENCY]
    chance = random.Random(0)
    for kill in range(KILLS):
        before = means.seen.total()
        with contextlib.closing(Process(command, tmp_path / f"worker-{kill}.log")) as worker:
            target = before + chance.randint(1, 250)
            worker.wait_until(lambda target=target: means.seen.total() >= target)
            time.sleep(chance.uniform(0, 0.05))
            worker.kill()
    with contextlib.closing(Process(command, tmp_path / "worker-last.log")) as worker:
        assert worker.process.wait(300) == 0, worker.log.read_text()

    seen = means.seen
    again = seen.total() - len(seen)
    assert again <= KILLS * CONCURRENCY * BATCH
    with Ledger(ledger, readonly=True) as book:
        summary = book.summary()
    assert summary.images == len(seen)
    assert 0 < summary.uncertain <= KILLS * CONCURRENCY
    assert again <= summary.resent <= KILLS * CONCURRENCY * BATCH  # what the server saw twice, the ledger tells of
    print(
        f"\n  {len(seen)} images, {KILLS} kills: {again} sent twice; the ledger tells of {summary.resent}", flush=True
    )
    assert acquire(public, open_model(means.file), ledger).asked == 0


class Process:
    """An acquisition in a process of its own."""

    def __init__(self, command, log):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)

    def wait_until(self, done):
        end = time.monotonic() + 300
        while not done():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.005)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL

    def close(self):
        self.process.kill()
        self.process.wait()


def test_a_served_bundle_answers_as_the_bundle_does(tmp_path):
    local = load_local_model(BUNDLE)
    with triton(script_of_docs("serve_bundle.py", tmp_path), [str(BUNDLE)], [], "bundle", tmp_path) as port:
        spec = {"channels": 8, "size": [64, 64]}
        file = describe(
            tmp_path / "foundation.json",
            url=f"http://127.0.0.1:{port}",
            model="bundle",
            classes=list(local.classes),
            input=spec,
        )
        served = open_model(file)
        batch = np.random.default_rng(0).random((5, 8, 64, 64), dtype=np.float32)
        answer = served.predict(batch)
        served.close()
    mean, spread = (getattr(batch, name)(axis=(1, 2, 3), keepdims=True) for name in ("mean", "std"))
    np.testing.assert_allclose(answer, local.predict((batch - mean) / spread), atol=1e-4)


def test_a_served_probe_knows_its_classes(public, tmp_path):
    for name in ("Hand", "HeadCT", "CXR"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for path in sorted((public.parent).rglob(f"{name}/*.jpeg"))[:20]:
            (tmp_path / "labelled" / name / path.name).symlink_to(path)
    script = script_of_docs("serve_probe.py", tmp_path)
    with triton(script, [str(tmp_path / "labelled")], [], "probe", tmp_path):
        model = open_model(tmp_path / "foundation.json")
        assert model.classes == ("CXR", "Hand", "HeadCT")
        paths = {name: sorted(public.parent.rglob(f"{name}/*.jpeg"))[100:110] for name in model.classes}
        answers = {
            name: model.predict(np.stack([model.input.preprocess(path) for path in found]))
            for name, found in paths.items()
        }
        model.close()
    right = [float((answers[name].argmax(axis=1) == index).mean()) for index, name in enumerate(model.classes)]
    print(f"\n  ImageNet probe, accuracy by class: {dict(zip(model.classes, right, strict=True))}", flush=True)
    assert np.mean(right) > 0.8
