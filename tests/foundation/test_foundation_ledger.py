"""The ledger keeps exactly what it was given, says what was sent, and knows what is not its own."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from foundation_phantoms import SPEC, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import InputSpec, Ledger, ModelDescription, content_key
from fedhelp_med.foundation.addresses import file_stamp
from fedhelp_med.foundation.attempts import Attempt
from fedhelp_med.foundation.ledger import LEASE_SECONDS, Claim
from fedhelp_med.foundation.payloads import pack
from fedhelp_med.foundation.storage import APPLICATION_ID, SCHEMA_1

MODEL = make_model()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


def keep(ledger, answers, model=MODEL):
    call = ledger.claim(model, list(answers)).call
    ledger.store(call, answers)
    return call


def edit(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float16]),
        arrays.array_shapes(max_dims=3, max_side=4),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=16),
    )
)
def test_answers_come_back_bit_for_bit(answer):
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        keep(ledger, {"key": answer})
        found = ledger.answers(["key"])["key"]
    assert found.dtype == answer.dtype
    assert found.shape == answer.shape
    assert found.tobytes() == answer.tobytes()


def test_extreme_float32_values_come_back(path):
    values = np.array([np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, -0.0], dtype=np.float32)
    with Ledger(path) as ledger:
        keep(ledger, {"key": values})
    with Ledger(path, readonly=True) as ledger:
        assert ledger.answers(["key"])["key"].tobytes() == values.tobytes()


def test_missing_keys_in_their_order_and_once(path):
    with Ledger(path) as ledger:
        keep(ledger, {"b": np.zeros(2, np.float32)})
        assert ledger.missing(["d", "b", "a", "d", "c"]) == ["d", "a", "c"]
        assert list(ledger.answers(["b", "b"])) == ["b"]
        with pytest.raises(FedHelpError, match="no answer for 2 images, d the first"):
            ledger.answers(["d", "b", "a"])


def test_many_keys_at_once(path):
    keys = [f"{number:064x}" for number in range(40_000)]  # more than SQLite takes as variables
    with Ledger(path) as ledger:
        assert ledger.missing(keys) == keys


def test_a_call_is_on_the_disk_before_it_is_answered(path):
    with Ledger(path) as ledger, Ledger(path, readonly=True) as other:
        claim = ledger.claim(MODEL, ["a", "b"])
        assert claim.keys == ("a", "b") and claim.held == ()
        summary = other.summary()
        assert (summary.calls, summary.under_way, summary.uncertain, summary.images) == (1, 1, 0, 0)
        assert summary.bytes == 2 * 3 * 8 * 8 * 4
        ledger.store(claim.call, {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)})
        summary = other.summary()
        assert (summary.calls, summary.under_way, summary.uncertain, summary.images) == (1, 0, 0, 2)


def test_images_that_were_sent_again_are_visible(path):
    with Ledger(path) as ledger:
        lost = ledger.claim(MODEL, ["a", "b"])
        ledger.release([lost.call])  # never completed, as after a crash
        ledger.fail(ledger.claim(MODEL, ["b", "c"]).call, "connection reset", seconds=0.5)
        keep(ledger, {"b": np.zeros(2, np.float32)})
        summary = ledger.summary()
    assert (summary.calls, summary.uncertain, summary.failed, summary.resent) == (3, 1, 1, 1)
    assert summary.bytes == 5 * 768
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT images, status, error, seconds FROM calls ORDER BY id").fetchall()
    assert rows == [(2, "sent", None, None), (2, "failed", "connection reset", 0.5), (1, "done", None, None)]


def test_a_call_is_completed_once_and_with_its_own_images(path):
    with Ledger(path) as ledger:
        call = ledger.claim(MODEL, ["a", "b"]).call
        with pytest.raises(FedHelpError, match="other images"):
            ledger.store(call, {"a": np.zeros(2, np.float32)})
        with pytest.raises(FedHelpError, match="float64"):
            ledger.store(call, {"a": np.zeros(2), "b": np.zeros(2)})
        assert ledger.summary().under_way == 1
        ledger.fail(call, "no answer")
        with pytest.raises(FedHelpError, match="complete already"):
            ledger.store(call, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
        assert ledger.missing("ab") == ["a", "b"]


def test_what_is_under_way_is_left_alone(path):
    with Ledger(path) as ledger, Ledger(path) as other:
        keep(ledger, {"known": np.zeros(2, np.float32)})
        first = ledger.claim(MODEL, ["a", "b"])
        second = other.claim(MODEL, ["known", "b", "c", "a"])
        assert (second.keys, second.held) == (("c",), ("b", "a"))
        assert other.claim(MODEL, ["a", "known"]) == Claim(None, (), ("a",))
        assert other.held(["a", "b", "c", "d", "known"]) == {"a", "b", "c"}
        ledger.fail(first.call, "connection reset")
        assert other.claim(MODEL, ["a", "b"]).keys == ("a", "b")
        assert other.summary().calls == 4


def test_a_lease_runs_out_unless_it_is_renewed(path, monkeypatch):
    now = time.time()
    with Ledger(path) as ledger, Ledger(path) as other:
        first, second = ledger.claim(MODEL, ["a"]), ledger.claim(MODEL, ["b"])
        monkeypatch.setattr(time, "time", lambda: now + LEASE_SECONDS - 1)
        assert other.held("ab") == {"a", "b"}
        ledger.renew({first.call: []})
        monkeypatch.setattr(time, "time", lambda: now + LEASE_SECONDS + 1)
        assert other.held("ab") == {"a"}
        again = other.claim(MODEL, ["a", "b"])
        assert (again.keys, again.held) == (("b",), ("a",))
        # The first one was only slow: its answer is welcome, and the other one's does not replace it.
        ledger.store(second.call, {"b": np.zeros(2, np.float32)})
        other.store(again.call, {"b": np.ones(2, np.float32)})
        np.testing.assert_array_equal(ledger.answers(["b"])["b"], [0, 0])
        assert ledger.summary().resent == 1


def test_attempts_are_written_down_and_stay(path):
    with Ledger(path) as ledger:
        call = ledger.claim(MODEL, ["a"]).call
        ledger.renew({None: [Attempt(0, 0, 300, 0.1, "200", 1)], call: [Attempt(1, 800, 20, 0.2, "503", 1)]})
        ledger.store(call, {"a": np.zeros(2, np.float32)}, 1.5, [Attempt(1, 800, 60, 0.3, "200", 2)])
        summary = ledger.summary()
    assert (summary.attempts, summary.sent, summary.received, summary.seconds) == (3, 1600, 380, 1.5)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT call, number, images, sent, status FROM attempts ORDER BY id").fetchall()
    assert rows == [(None, 1, 0, 0, "200"), (call, 1, 1, 800, "503"), (call, 2, 1, 800, "200")]
    for change in ("DELETE FROM attempts", "UPDATE attempts SET sent = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="attempts are kept for ever"):
            edit(path, change)


@pytest.mark.parametrize("table", ["calls", "sent"])
def test_the_record_of_calls_only_grows(path, table):
    with Ledger(path) as ledger:
        keep(ledger, {"a": np.zeros(2, np.float32)})
    with pytest.raises(sqlite3.IntegrityError, match="for ever"):
        edit(path, f"DELETE FROM {table}")
    with pytest.raises(sqlite3.IntegrityError, match="completed once"):
        edit(path, "UPDATE calls SET images = 0")


@pytest.mark.parametrize(
    ("column", "value"), [("payload", bytes(8)), ("shape", "[3]"), ("shape", "2"), ("dtype", "int7"), ("sha256", "")]
)
def test_a_damaged_answer_is_named(path, column, value):
    with Ledger(path) as ledger:
        keep(ledger, {"good": np.zeros(2, np.float32), "bad": np.ones(2, np.float32)})
    edit(path, f"UPDATE answers SET {column} = ? WHERE key = 'bad'", value)
    with Ledger(path, readonly=True) as ledger:
        np.testing.assert_array_equal(ledger.answers(["good"])["good"], [0, 0])
        with pytest.raises(FedHelpError, match=r"answer bad in the ledger .* is damaged"):
            ledger.answers(["good", "bad"])


def test_other_files_are_refused_and_left_alone(tmp_path):
    text, empty, other = tmp_path / "notes.txt", tmp_path / "empty.sqlite", tmp_path / "other.sqlite"
    text.write_text("These are notes, no database. " * 100)
    empty.touch()
    edit(other, "CREATE TABLE scans (path TEXT)")
    for file, readonly in ((text, True), (text, False), (empty, True), (other, True), (other, False)):
        before = file.read_bytes()
        with pytest.raises(InputError, match=f"{file.name} is not a ledger"):
            Ledger(file, readonly=readonly)
        assert file.read_bytes() == before
    with pytest.raises(InputError, match="is a folder"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match="does not exist: make it with `fedhelp foundation acquire`"):
        Ledger(tmp_path / "absent.sqlite", readonly=True)
    assert not (tmp_path / "absent.sqlite").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_another_schema_version_is_refused(path):
    Ledger(path).close()
    edit(path, "PRAGMA user_version = 3")
    for readonly in (True, False):
        with pytest.raises(InputError, match="schema version 3, this program reads 1 to 2"):
            Ledger(path, readonly=readonly)


def test_a_ledger_of_version_1_keeps_its_answers(path):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in (*SCHEMA_1, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1"):
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode = WAL")
    edit(path, "INSERT INTO models VALUES (1, 'old', '1', '{}')")
    row = pack("a", np.ones(2, np.float32))
    edit(path, "INSERT INTO answers (model, key, payload, dtype, shape, sha256) VALUES (1, ?, ?, ?, ?, ?)", *row)
    before = path.read_bytes()
    with Ledger(path, readonly=True) as ledger:
        assert (ledger.summary().images, ledger.summary().attempts, ledger.held("a")) == (1, 0, set())
        np.testing.assert_array_equal(ledger.answers(["a"])["a"], [1, 1])
    assert path.read_bytes() == before
    with Ledger(path) as ledger:
        keep(ledger, {"b": np.zeros(2, np.float32)})
        assert ledger.summary().images == 2
        assert ledger.missing("ab") == []


def test_a_reader_does_not_write(path):
    Ledger(path).close()
    before = path.read_bytes()
    with Ledger(path, readonly=True) as ledger, pytest.raises(FedHelpError, match="for reading only"):
        ledger.claim(MODEL, ["a"])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_ledger_in_a_folder_that_may_not_be_written():
    folder = Path(tempfile.mkdtemp())  # not tmp_path: other users may not enter it
    path = folder / "knowledge.sqlite"
    user = os.geteuid()
    try:
        with Ledger(path) as ledger:
            keep(ledger, {"a": np.zeros(2, np.float32)})
        path.chmod(0o444)
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        with Ledger(path, readonly=True) as ledger:
            assert ledger.missing(["a", "b"]) == ["b"]
        with pytest.raises(FedHelpError, match="cannot be"), Ledger(path) as ledger:
            ledger.claim(MODEL, ["b"])
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_models_are_registered_once_and_do_not_change(path):
    with Ledger(path) as ledger:
        assert ledger.register(MODEL) == ledger.register(MODEL) == 1
        assert ledger.register(make_model(version="2")) == 2
        assert ledger.models() == [ModelDescription.of(MODEL), ModelDescription.of(make_model(version="2"))]
        with pytest.raises(InputError, match="counting 1 with other classes, kind or input"):
            ledger.register(make_model(spec=InputSpec(3, (8, 8), (-1, 1))))


def test_the_address_is_the_content():
    pixels = np.random.default_rng(0).random(SPEC.shape, dtype=np.float32)
    changed = pixels.copy()
    changed[0, 0, 0] = np.nextafter(changed[0, 0, 0], 1)
    key = content_key(pixels, MODEL)
    assert key == content_key(pixels.copy(order="F"), ModelDescription.of(MODEL))
    others = [
        content_key(changed, MODEL),
        content_key(pixels.reshape(3, 4, 16), MODEL),
        content_key(pixels.view(np.int32), MODEL),
        content_key(pixels, make_model(version="2")),
        content_key(pixels, make_model(spec=InputSpec(3, (8, 8), (-1, 1)))),
    ]
    assert len({key, *others}) == 6


def test_keys_of_unchanged_files_are_recalled(path, tmp_path, monkeypatch):
    file = tmp_path / "image.nii"
    file.write_bytes(b"pixels")
    assert file_stamp(file) is None  # it may still change within one tick of the clock
    assert file_stamp(tmp_path) is None
    assert file_stamp(tmp_path / "absent") is None
    now = file.stat().st_ctime
    monkeypatch.setattr("fedhelp_med.foundation.addresses.time.time", lambda: now + 10)
    with Ledger(path) as ledger:
        ledger.remember(MODEL, [(str(file), file_stamp(file), "key")])
        assert ledger.recall(MODEL, [str(file), "other"]) == {str(file): "key"}
        assert ledger.recall(make_model(version="2"), [str(file)]) == {}
        before = file.stat()
        file.write_bytes(b"pixelz")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careless copy would
        assert ledger.recall(MODEL, [str(file)]) == {}
