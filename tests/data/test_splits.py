from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import split_by_patient

FRACTIONS = {"training": 0.6, "validation": 0.2, "testing": 0.2}

items_of_patients = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=3, max_size=80).map(
    lambda pairs: [
        {"image": f"{index}.png", "patient": f"P {patient}", "label": label}
        for index, (patient, label) in enumerate(pairs)
    ]
)


@settings(deadline=None)
@given(items=items_of_patients, seed=st.integers(0, 9), random=st.randoms())
def test_patients_stay_together_whatever_the_order(items, seed, random):
    assume(len({item["patient"] for item in items}) >= len(FRACTIONS))
    parts = split_by_patient(items, FRACTIONS, seed)
    images = [item["image"] for part in parts.values() for item in part]
    assert sorted(images) == sorted(item["image"] for item in items)
    patients = [{item["patient"] for item in part} for part in parts.values()]
    assert sum(map(len, patients)) == len(set().union(*patients))
    assert all(parts.values())
    shuffled = random.sample(items, len(items))
    assert split_by_patient(shuffled, FRACTIONS, seed) == parts


@settings(deadline=None)
@given(counts=st.lists(st.integers(5, 60), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_every_class_has_its_share(counts, seed):
    items = [{"image": f"{c}-{i}", "label": c} for c, count in enumerate(counts) for i in range(count)]
    parts = split_by_patient(items, FRACTIONS, seed)
    for split, fraction in FRACTIONS.items():
        found = Counter(item["label"] for item in parts[split])
        for label, count in enumerate(counts):
            assert abs(found[label] - fraction * count) <= len(FRACTIONS)
        assert abs(len(parts[split]) - fraction * len(items)) < len(FRACTIONS)


@pytest.mark.parametrize("seed", range(8))
def test_a_patient_belongs_to_the_class_of_most_of_its_images(seed):
    items = [{"image": f"{p}{i}", "patient": p, "label": int(i < 2)} for p in "abcd" for i in range(3)]
    items += [{"image": f"{p}{i}", "patient": p, "label": 0} for p in "efgh" for i in range(3)]
    parts = split_by_patient(items, {"training": 0.5, "testing": 0.5}, seed)
    for part in parts.values():
        assert sum(item["patient"] in "abcd" for item in part) == sum(item["patient"] in "efgh" for item in part)


def test_the_seed_decides():
    items = [{"image": str(index), "label": 0} for index in range(40)]
    parts = [tuple(i["image"] for i in split_by_patient(items, FRACTIONS, seed)["testing"]) for seed in range(5)]
    assert len(set(parts)) == 5


def test_patient_spelling_does_not_split_a_patient():
    items = [{"image": str(i), "patient": p} for i, p in enumerate(("P 1", "p1", " P1", "q", "r"))]
    parts = split_by_patient(items, {"training": 0.5, "testing": 0.5}, seed=0)
    assert any({"0", "1", "2"} <= {item["image"] for item in part} for part in parts.values())


def test_a_small_share_still_gets_a_patient():
    items = [{"image": str(index), "label": 0} for index in range(4)]
    parts = split_by_patient(items, {"training": 0.98, "testing": 0.02}, seed=0)
    assert [len(part) for part in parts.values()] == [3, 1]


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.0, "b": 0.0}, {"a": 1.2, "b": -0.2}])
def test_refuses_fractions_that_are_not_shares(fractions):
    with pytest.raises(InputError, match=r"fractions \{.*give every split a share above 0"):
        split_by_patient([{"image": "a"}, {"image": "b"}], fractions, seed=0)


def test_refuses_too_few_patients():
    items = [{"image": str(index), "patient": "one"} for index in range(9)]
    with pytest.raises(InputError, match=r"1 patient\(s\) cannot fill 3 splits.*more patients"):
        split_by_patient(items, FRACTIONS, seed=0)
