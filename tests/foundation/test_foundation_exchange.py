"""Knowledge goes from site to site in one file, whole and unchanged."""

import json

import numpy as np
import pytest
from foundation_phantoms import make_model, write_public
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import InputSpec, Ledger, PublicKnowledge, acquire, export_ledger, import_ledger

MODEL = make_model()
KEYS = [f"{number:064x}" for number in range(300)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "knowledge.safetensors"


def keep(path, answers, model=MODEL):
    with Ledger(path) as ledger:
        ledger.store(ledger.claim(model, list(answers)).call, answers)


def test_what_one_site_acquires_another_learns_from(tmp_path, path, file):
    datalist = write_public(tmp_path, [4, 1, 3, 1, 2])
    acquire(datalist, make_model(), path)
    done = export_ledger(path, file)
    assert (done.images, done.models) == (4, ("counting 1",))
    there = tmp_path / "there" / "knowledge.sqlite"
    taken = import_ledger(file, there)
    assert (taken.images, taken.new, taken.models) == (4, 4, ("counting 1",))
    for one, other in zip(PublicKnowledge(datalist, path).items, PublicKnowledge(datalist, there).items, strict=True):
        np.testing.assert_array_equal(one["knowledge"], other["knowledge"])
    assert acquire(datalist, make_model(), there).asked == 0
    with Ledger(there, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.imported, summary.calls) == (4, 0)


def test_all_forms_and_models_come_back_bit_for_bit(path, tmp_path, file):
    random = np.random.default_rng(0)
    other = make_model(version="2")
    sets = [
        (MODEL, {key: random.normal(size=2).astype(np.float32) for key in KEYS}),  # more than one portion
        (MODEL, {"a" * 64: random.normal(size=2).astype(np.float16)}),
        (other, {"b" * 64: random.normal(size=(2, 5, 4)).astype(np.float16)}),
    ]
    for model, answers in sets:
        keep(path, answers, model)
    export_ledger(path, file)
    there = tmp_path / "there.sqlite"
    import_ledger(file, there)
    with Ledger(there, readonly=True) as ledger:
        assert [str(model) for model in ledger.models()] == ["counting 1", "counting 2"]
        for _, answers in sets:
            found = ledger.answers(answers)
            for key, answer in answers.items():
                assert found[key].dtype == answer.dtype
                np.testing.assert_array_equal(found[key], answer)
        assert ledger.rows("SELECT model, count(*) FROM answers GROUP BY model") == [(1, 301), (2, 1)]


def test_the_same_answers_give_the_same_bytes(path, tmp_path, file):
    answers = {key: np.full(2, index, np.float32) for index, key in enumerate(KEYS[:9])}
    keep(path, answers)
    again = tmp_path / "again.sqlite"
    for key in sorted(answers, reverse=True):
        keep(again, {key: answers[key]})
    export_ledger(path, file)
    export_ledger(again, tmp_path / "again.safetensors")
    assert file.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_no_path_and_no_time_is_in_the_file(tmp_path, path, file, monkeypatch):
    monkeypatch.setattr("fedhelp_med.foundation.addresses.SETTLED_SECONDS", -1e9)  # so that paths are remembered
    acquire(write_public(tmp_path / "secret-folder"), make_model(), path)
    assert b"secret-folder" in b"".join(part.read_bytes() for part in tmp_path.glob("knowledge.sqlite*"))
    export_ledger(path, file)
    assert b"secret-folder" not in file.read_bytes()
    with safe_open(file, framework="numpy") as tensors:
        assert set(json.loads(tensors.metadata()["knowledge"])) == {"format", "content", "sha256"}


def test_the_first_answer_stays(path, tmp_path, file):
    keep(path, {KEYS[0]: np.zeros(2, np.float32), KEYS[1]: np.zeros(2, np.float32)})
    export_ledger(path, file)
    there = tmp_path / "there.sqlite"
    keep(there, {KEYS[0]: np.ones(2, np.float32)})
    done = import_ledger(file, there)
    assert (done.images, done.new) == (2, 1)
    with Ledger(there, readonly=True) as ledger:
        np.testing.assert_array_equal(ledger.answers(KEYS[:1])[KEYS[0]], [1, 1])


def test_every_flipped_byte_is_noticed(path, tmp_path, file):
    keep(path, {key: np.array([1.5, index], np.float32) for index, key in enumerate(KEYS[:3])})
    export_ledger(path, file)
    whole, there = file.read_bytes(), tmp_path / "there.sqlite"
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        file.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match=r"not a file of knowledge|is wrong|lacks|unknown"):
            import_ledger(file, there)
        assert not there.exists()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a file of knowledge, or is damaged"):
            import_ledger(file, there)


def test_other_files_and_absent_ones(tmp_path, file, path):
    with pytest.raises(InputError, match="does not exist"):
        import_ledger(file, path)
    save_file({"weights": np.zeros(3, np.float32)}, file)
    with pytest.raises(InputError, match="is not a file of knowledge"):
        import_ledger(file, path)
    with pytest.raises(InputError, match="does not exist: make it"):
        export_ledger(path, file)
    Ledger(path).close()
    with pytest.raises(InputError, match="has no answers yet"):
        export_ledger(path, file)
    assert set(load_file(file)) == {"weights"}


def test_another_model_of_the_same_name_is_refused(path, tmp_path, file):
    keep(path, {KEYS[0]: np.zeros(2, np.float32)})
    export_ledger(path, file)
    there = tmp_path / "there.sqlite"
    keep(there, {KEYS[1]: np.zeros(2, np.float32)}, make_model(spec=InputSpec(3, (8, 8), (-1, 1))))
    with pytest.raises(InputError, match="with other classes, kind or input"):
        import_ledger(file, there)
    with Ledger(there, readonly=True) as ledger:
        assert ledger.missing(KEYS[:2]) == KEYS[:1]


def test_a_damaged_ledger_is_not_exported(path, file):
    keep(path, {KEYS[0]: np.zeros(2, np.float32)})
    with Ledger(path) as ledger, ledger.transaction() as write:
        write.execute("UPDATE answers SET payload = ?", (bytes(8)[:-1] + b"\x01",))
    with pytest.raises(FedHelpError, match="is damaged: nothing was written"):
        export_ledger(path, file)
    assert not file.exists()
