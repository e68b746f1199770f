import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import read_datalist, write_datalist
from fedhelp_med.data.datalist import Datalist


def write(folder: Path, content, files=("a.png", "b.png", "c.png", "m.png")) -> Path:
    for name in files:
        (folder / name).write_bytes(b"")
    path = folder / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def item(image="a.png", **rest):
    return {"image": image, **rest}


def test_reads_paths_labels_and_names(tmp_path):
    path = write(
        tmp_path,
        {
            "name": "clinic",
            "labels": {"1": "lesion", "0": "no lesion"},
            "training": [item("a.png", label=0, patient="P 1"), item("b.png", label=1, patient="p1")],
            "testing": [item("c.png", label=0, patient="p2")],
        },
    )
    datalist = read_datalist(path, require=("training", "testing"))
    assert datalist.name == "clinic"
    assert datalist.classes == ("no lesion", "lesion")
    assert datalist.class_count == 2
    assert not datalist.is_segmentation
    assert [datalist.samples(split) for split in ("training", "validation", "testing")] == [2, 0, 1]
    assert datalist.splits["training"][0] == {"image": str(tmp_path / "a.png"), "label": 0, "patient": "P 1"}


def test_class_count_without_declared_labels(tmp_path):
    path = write(tmp_path, {"training": [item(label=0)], "validation": [item("b.png", label=4)]})
    assert read_datalist(path).class_count == 5
    path = write(tmp_path, {"training": [item()]})
    assert read_datalist(path).class_count is None
    assert read_datalist(path).name == tmp_path.name


def test_patients_are_numbered_in_one_spelling_and_an_item_without_one_is_its_own(tmp_path):
    items = [{"patient": "Smith 01"}, {}, {"patient": "smith01"}, {"patient": 7}, {}]
    datalist = Datalist(tmp_path / "datalist.json", "a", None, {"validation": items})
    assert datalist.patients("validation") == (0, 1, 0, 2, 3)
    assert datalist.patients("testing") == ()


def test_masks_make_a_segmentation(tmp_path):
    datalist = read_datalist(write(tmp_path, {"training": [item(label="m.png")]}))
    assert datalist.is_segmentation
    assert datalist.class_count is None
    assert datalist.splits["training"][0]["label"] == str(tmp_path / "m.png")


def test_a_relative_path_of_the_datalist_gives_absolute_items(tmp_path, monkeypatch):
    write(tmp_path, {"training": [item()]})
    monkeypatch.chdir(tmp_path)
    assert read_datalist(Path("datalist.json")).splits["training"][0]["image"] == str(tmp_path / "a.png")


# content, then words that the message must hold: the key, its value, the remedy
WRONG = {
    "not a mapping": ([1], ["list", "mapping", '{"training": [...]']),
    "split missing": ({"validation": [item()]}, ["training", "missing", "validation", "add"]),
    "split empty": ({"training": []}, ["training", "[]", "add"]),
    "split not a list": ({"training": {"image": "a.png"}}, ["training", "a.png", "list of items"]),
    "unknown split": ({"training": [item()], "validaton": [item("b.png")]}, ["validaton", "1 items", "validation"]),
    "item not a mapping": ({"training": ["a.png"]}, ["training[0]", "'a.png'", '{"image"']),
    "no image": ({"training": [{"label": 0}]}, ["training[0].image", "None", "name one image"]),
    "image not a text": ({"training": [item(["a.png"])]}, ["training[0].image", "['a.png']", "name one image"]),
    "image not found": (
        {"training": [item(f"{i}.png") for i in range(5)]},
        ["training[0].image", "0.png", "2.png", "5 file(s)", "and 2 more", "correct the paths"],
    ),
    "mask not found": ({"training": [item(label="x.png")]}, ["training[0].label", "x.png", "correct the paths"]),
    "label a fraction": ({"training": [item(label=0.5)]}, ["training[0].label", "0.5", "whole number"]),
    "label a digit in quotes": ({"training": [item(label="1")]}, ["training[0].label", "'1'", "without quotes"]),
    "label a truth value": ({"training": [item(label=True)]}, ["training[0].label", "True", "whole number"]),
    "several labels": ({"training": [item(label=[0, 1])]}, ["training[0].label", "[0, 1]", "one class index"]),
    "label negative": ({"training": [item(label=-1)]}, ["training[0].label", "-1", "0 or more"]),
    "label not declared": (
        {"labels": {"0": "a", "1": "b"}, "training": [item(label=2)]},
        ["training[0].label", "2", "0 to 1", "declare"],
    ),
    "labels a list": ({"labels": ["a"], "training": [item()]}, ["labels", "['a']", '{"0": "normal"']),
    "labels with a gap": ({"labels": {"1": "a", "2": "b"}, "training": [item()]}, ["labels", "'1'", "without gaps"]),
    "label name a number": ({"labels": {"0": 1}, "training": [item()]}, ["labels.0", "1", "class names"]),
    "name a number": ({"name": 3, "training": [item()]}, ["name", "3", "write a text"]),
    "mixed label types": (
        {"training": [item(label=0)], "validation": [item("b.png", label="m.png")]},
        ["validation[0].label", "m.png", "training[0].label: 0", "make all labels"],
    ),
    "labels of some items": (
        {"training": [item(label=0), item("b.png")]},
        ["training[1].label", "missing", "label all of them or none"],
    ),
    "image twice in a split": (
        {"training": [item(), item("b.png"), item("./a.png")]},
        ["training[2].image", "a.png", "training[0].image", "once"],
    ),
    "image in two splits": (
        {"training": [item()], "testing": [item()]},
        ["testing[0].image", "a.png", "training[0].image", "once"],
    ),
    "patient in two splits": (
        {"training": [item(patient="Pat 01")], "testing": [item("b.png", patient="pat01 ")]},
        ["testing[0].patient", "'pat01 '", "training[0]", "one split"],
    ),
    "patient empty": ({"training": [item(patient=" ")]}, ["training[0].patient", "' '", "leave the key out"]),
    "not JSON": ('{"training": [\n  {"image" "a.png"}]}', ["not JSON", "line 2, column 12", "correct it"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gets_one_message(case, tmp_path):
    content, words = WRONG[case]
    path = write(tmp_path, content)
    with pytest.raises(InputError) as raised:
        read_datalist(path)
    message = str(raised.value)
    assert "\n" not in message
    assert [word for word in [str(path), *words] if word not in message] == []


def test_missing_file_folder_and_bytes(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json.*does not exist.*correct the path"):
        read_datalist(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match=r"cannot be read.*name a readable JSON file"):
        read_datalist(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(InputError, match=r"latin\.json.*save the datalist as UTF-8"):
        read_datalist(tmp_path / "latin.json")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"deep\.json"):
        read_datalist(tmp_path / "deep.json")


def test_one_image_under_two_names_is_a_leak(tmp_path):
    path = write(tmp_path, {"training": [item()], "testing": [item("link.png")]})
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"testing\[0\]\.image.*training\[0\]\.image"):
        read_datalist(path)


def test_one_patient_may_have_several_images_in_a_split(tmp_path):
    path = write(tmp_path, {"training": [item(patient=1), item("b.png", patient=1)]})
    assert read_datalist(path).samples("training") == 2


@settings(deadline=None, max_examples=25)
@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    below=st.sampled_from([".", "images", "../elsewhere"]),
)
def test_what_is_written_is_read(labels, below, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    images = folder / "list" / below
    images.mkdir(parents=True)
    items = []
    for index, label in enumerate(labels):
        (images / f"{index}.png").write_bytes(b"")
        items.append({"image": images.resolve() / f"{index}.png", "label": label, "patient": f"p{index}"})
    path = folder / "list" / "datalist.json"
    write_datalist(path, name="n", classes=("a", "b", "c"), splits={"training": items})
    written = json.loads(path.read_text())["training"]
    assert not any(Path(entry["image"]).is_absolute() for entry in written)
    datalist = read_datalist(path)
    assert datalist.classes == ("a", "b", "c")
    assert datalist.splits["training"] == [{**entry, "image": str(entry["image"])} for entry in items]


def test_a_datalist_is_private_unless_it_says_otherwise(tmp_path):
    assert read_datalist(write(tmp_path, {"training": [item()]})).public is False
    assert read_datalist(write(tmp_path, {"training": [item()], "public": True})).public is True
    for value in ("true", 1, None):
        with pytest.raises(InputError, match=r"public: .* is not valid; write true"):
            read_datalist(write(tmp_path, {"training": [item()], "public": value}))


@pytest.mark.parametrize("public", [True, False])
def test_the_declaration_is_written(tmp_path, public):
    write(tmp_path, {})  # the images
    path = tmp_path / "written.json"
    write_datalist(path, name="n", classes=None, splits={"training": [item()]}, public=public)
    assert ("public" in json.loads(path.read_text())) is read_datalist(path).public is public
