"""Several processes, or one after another was killed, never pay twice; forked, so that each starts at once."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from foundation_phantoms import CountingNetwork, make_model, write_public

from fedhelp_med.foundation import Ledger, acquire
from fedhelp_med.foundation.holders import is_gone, this_process

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="forks processes and looks them up in /proc"),
]
FORK = multiprocessing.get_context("fork")
BATCH = 4


class LoggingNetwork(CountingNetwork):
    """Writes down every image that it is asked about before it answers, as a server would count them."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__()
        self.log = log
        self.seconds = seconds

    def forward(self, images):
        lines = [hashlib.sha256(image.numpy().tobytes()).hexdigest() + "\n" for image in images]
        with self.log.open("a") as stream:
            stream.write("".join(lines))
        time.sleep(self.seconds)
        return super().forward(images)


def asking(datalist: Path, ledger: Path, log: Path, seconds: float, concurrency: int):
    """A process that acquires."""

    def work() -> None:
        model = make_model(LoggingNetwork(log, seconds))
        summary = acquire(datalist, model, ledger, batch_size=BATCH, concurrency=concurrency)
        log.with_suffix(f".{os.getpid()}").write_text(f"{summary.asked} {summary.already_known}")

    process = FORK.Process(target=work)
    process.start()
    return process


def test_killed_five_times_only_what_was_under_way_is_asked_again(tmp_path):
    images, concurrency = 60, 2
    datalist, path, log = write_public(tmp_path, range(images)), tmp_path / "k.sqlite", tmp_path / "asked"
    chance = random.Random(0)
    for _ in range(5):
        process = asking(datalist, path, log, 0.05, concurrency)
        wanted = len(log.read_text().splitlines()) + chance.randint(1, 3) * BATCH if log.exists() else BATCH
        deadline = time.monotonic() + 60
        while not log.exists() or len(log.read_text().splitlines()) < min(wanted, images):
            assert process.exitcode is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.join()
    process = asking(datalist, path, log, 0, concurrency)
    process.join(60)
    assert process.exitcode == 0
    counts = Counter(log.read_text().splitlines())
    assert len(counts) == images
    again = sum(count - 1 for count in counts.values())
    assert again <= 5 * concurrency * BATCH
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
        sent, distinct = ledger.rows("SELECT count(*), count(DISTINCT key) FROM sent")[0]
    assert (summary.images, summary.under_way, distinct) == (images, 0, images)
    assert summary.uncertain <= 5 * concurrency
    assert again <= sent - images  # every repetition can be seen in the ledger
    log.unlink()
    process = asking(datalist, path, log, 0, concurrency)
    process.join(60)
    assert not log.exists()


def test_two_processes_at_once_never_ask_the_same_image(tmp_path):
    datalist, path, log = write_public(tmp_path, range(40)), tmp_path / "k.sqlite", tmp_path / "asked"
    processes = [asking(datalist, path, log, 0.02, 2) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    counts = Counter(log.read_text().splitlines())
    assert set(counts.values()) == {1} and len(counts) == 40
    shares = [tuple(map(int, log.with_suffix(f".{p.pid}").read_text().split())) for p in processes]
    assert sum(asked for asked, _ in shares) == 40
    assert all(asked + known == 40 for asked, known in shares)
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.images, summary.resent, summary.uncertain, summary.under_way) == (40, 0, 0, 0)


def test_what_a_killed_process_held_is_free_at_once(tmp_path):
    path = tmp_path / "k.sqlite"

    def hold() -> None:
        with Ledger(path) as ledger:
            ledger.claim(make_model(), ["a"])
            time.sleep(600)

    Ledger(path).close()
    process = FORK.Process(target=hold)
    process.start()
    with Ledger(path) as ledger:
        while not ledger.summary().calls:
            time.sleep(0.005)
        assert ledger.held(["a"]) == {"a"}
        process.kill()
        process.join()
        assert ledger.held(["a"]) == set()
        assert ledger.summary().uncertain == 1
        call = ledger.claim(make_model(), ["a"]).call
        ledger.store(call, {"a": np.zeros(2, np.float32)})
        assert ledger.summary().resent == 1
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT call, status FROM sent JOIN calls ON id = call ORDER BY id").fetchall()
    assert rows == [(1, "sent"), (2, "done")]


def test_a_process_is_known_by_more_than_its_number():
    me = this_process()
    place, number, start = me.split("|")
    assert not is_gone(me)
    assert is_gone(f"{place}|{number}|{int(start) + 1}")  # the same number, given again
    assert not is_gone(f"elsewhere|{2**22 + 1}|1")  # another machine cannot be asked
    assert is_gone(f"{place}|{2**22 + 1}|1")  # beyond the largest number of a process
