"""Public items carry the answer to their own image, and every gap is named."""

import numpy as np
import pytest
from foundation_phantoms import CLASSES, CountingNetwork, make_model, write_public

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation import Ledger, LocalFoundationModel, PublicKnowledge, acquire


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


def test_every_item_has_the_answer_to_its_own_image(tmp_path, path):
    datalist = write_public(tmp_path, [4, 1, 3, 1, 2])  # with a copy, so that answers and items differ in number
    acquire(datalist, make_model(), path, batch_size=2)
    knowledge = PublicKnowledge(datalist, path)
    assert [item["image"].rsplit("-", 1)[1] for item in knowledge.items] == [f"{i:03d}.nii.gz" for i in range(5)]
    model = make_model()
    for item in knowledge.items:
        assert set(item) == {"image", "knowledge"}
        assert item["knowledge"].dtype == np.float32
        wanted = model.predict(model.input.preprocess(item["image"])[None])[0]
        np.testing.assert_allclose(item["knowledge"], wanted, atol=1e-6)
    assert (knowledge.channels, knowledge.classes, knowledge.model_name) == (2, CLASSES, "counting 1")


def test_remembered_keys_give_the_same_items(tmp_path, path, monkeypatch):
    datalist = write_public(tmp_path, [4, 1, 3, 1, 2])
    acquire(datalist, make_model(), path)
    computed = PublicKnowledge(datalist, path).items
    monkeypatch.setattr("fedhelp_med.foundation.addresses.SETTLED_SECONDS", -1e9)
    acquire(datalist, make_model(), path)
    monkeypatch.setattr("fedhelp_med.foundation.coverage.content_key", None)  # would be called to compute one
    for item, other in zip(PublicKnowledge(str(datalist), str(path)).items, computed, strict=True):
        assert item["image"] == other["image"]
        np.testing.assert_array_equal(item["knowledge"], other["knowledge"])


def test_labels_without_a_ledger(tmp_path):
    knowledge = PublicKnowledge(write_public(tmp_path, range(3), labels=[1, 0, 1]))
    assert [item["label"] for item in knowledge.items] == [1, 0, 1]
    assert all(set(item) == {"image", "label"} for item in knowledge.items)
    assert (knowledge.channels, knowledge.classes, knowledge.model_name) == (2, CLASSES, None)


def test_labels_and_answers(tmp_path, path):
    datalist = write_public(tmp_path, range(3), labels=[1, 0, 1])
    acquire(datalist, make_model(), path)
    knowledge = PublicKnowledge(datalist, path)
    assert all(set(item) == {"image", "label", "knowledge"} for item in knowledge.items)


@pytest.mark.parametrize(
    ("names", "speaks"),
    [(("No Lesion", "LESION"), True), (("lesion", "no lesion"), False), (("no lesion",), False), ((), False)],
)
def test_the_classes_that_it_speaks_of_are_told_by_their_names_in_order(tmp_path, names, speaks):
    knowledge = PublicKnowledge(write_public(tmp_path, range(3), labels=[1, 0, 1], classes=("no lesion", "lesion")))
    assert knowledge.speaks_of(names) == speaks


def test_unanswered_images_are_counted(tmp_path, path):
    acquire(write_public(tmp_path, range(4)), make_model(), path)
    datalist = write_public(tmp_path, [0, 1, 2, 3, 8, 9, 9])
    with pytest.raises(InputError, match=r"3 of 7 public images .*`fedhelp foundation acquire`"):
        PublicKnowledge(datalist, path)


def test_nothing_to_learn_from(tmp_path, path):
    datalist = write_public(tmp_path, classes=())
    with pytest.raises(InputError, match="nothing to learn from"):
        PublicKnowledge(datalist)
    with pytest.raises(InputError, match=r"knowledge\.sqlite does not exist"):
        PublicKnowledge(datalist, path)
    Ledger(path).close()
    with pytest.raises(InputError, match="has no answers yet"):
        PublicKnowledge(datalist, path)
    with pytest.raises(InputError, match="'counting' is named without a ledger"):
        PublicKnowledge(datalist, model="counting")


def test_one_of_several_models_is_chosen(tmp_path, path):
    datalist = write_public(tmp_path)
    network = CountingNetwork()
    with_offset = LocalFoundationModel(
        CountingNetwork(fill=7), name="constant", version="1", classes=CLASSES, input=make_model().input
    )
    for model in (make_model(network), make_model(network, version="2"), with_offset):
        acquire(datalist, model, path)
    with pytest.raises(InputError, match=r"several models \(counting 1, counting 2, constant 1\)"):
        PublicKnowledge(datalist, path)
    with pytest.raises(InputError, match="several models"):
        PublicKnowledge(datalist, path, model="counting")
    with pytest.raises(InputError, match="no model 'sam': it has counting 1"):
        PublicKnowledge(datalist, path, model="sam")
    assert PublicKnowledge(datalist, path, model="counting 2").model_name == "counting 2"
    assert (PublicKnowledge(datalist, path, model="constant").items[0]["knowledge"] == 7).all()


def test_labels_must_be_all_or_none(tmp_path):
    with pytest.raises(InputError, match="label all of them or none"):
        PublicKnowledge(write_public(tmp_path, range(3), labels=[1, None, 0]))


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (("lesion", "no lesion"), [1, 1, 0], "lesion, no lesion"),
        (("a", "b", "c"), [1, 1, 0], "a, b, c"),
        ((), [1, 2, 0], "0 to 2"),
    ],
)
def test_labels_must_be_of_the_same_classes(tmp_path, path, classes, labels, said):
    datalist = write_public(tmp_path, range(3), labels=labels, classes=classes)
    acquire(datalist, make_model(), path)
    with pytest.raises(InputError, match=f"has the classes {said}, but counting answers for no lesion, lesion"):
        PublicKnowledge(datalist, path)


def test_classes_without_names(tmp_path, path):
    datalist = write_public(tmp_path, range(3), labels=[1, 1, 0], classes=())
    assert PublicKnowledge(datalist).classes == ("0", "1")
    acquire(datalist, make_model(), path)
    assert PublicKnowledge(datalist, path).classes == CLASSES
