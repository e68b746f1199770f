"""Real processes: killed in the middle of an acquisition, killed while they write."""

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from foundation_phantoms import CountingNetwork, make_model, write_public

from fedhelp_med.foundation import Ledger, acquire

pytestmark = pytest.mark.integration
WORKER = Path(__file__).with_name("foundation_worker.py")


@contextlib.contextmanager
def worker(*arguments):
    process = subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_nine(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_only_missing_images_are_asked_after_kill_nine(tmp_path):
    datalist, path = write_public(tmp_path, range(20)), tmp_path / "knowledge.sqlite"
    with worker("acquire", datalist, path, 3) as process:  # hangs in the third of five calls
        assert process.stdout.readline() == "hangs\n", process.stderr.read()
        kill_nine(process)
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.images, summary.calls, summary.uncertain) == (8, 3, 1)

    network = CountingNetwork()
    assert acquire(datalist, make_model(network), path, batch_size=4).asked == 12
    assert network.batches == [4, 4, 4]
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.images, summary.calls, summary.uncertain, summary.resent) == (20, 6, 1, 4)


def test_kill_nine_while_writing_leaves_whole_batches(tmp_path):
    path = tmp_path / "knowledge.sqlite"
    for attempt in range(3):
        with worker("store", path) as process:
            for _ in range(random.Random(attempt).randint(3, 40)):
                assert process.stdout.readline(), process.stderr.read()
            kill_nine(process)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            done, sent = connection.execute("SELECT sum(status = 'done'), count(*) FROM calls").fetchone()
            keys = [key for (key,) in connection.execute("SELECT key FROM answers")]
        assert len(keys) == 50 * done
        assert done + attempt + 1 >= sent  # at most one call under way at each kill
        with Ledger(path, readonly=True) as ledger:
            assert all((answer == answer[0]).all() for answer in ledger.answers(keys).values())
