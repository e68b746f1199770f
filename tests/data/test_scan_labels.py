"""Labels of every origin, and splits that keep a patient together."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_samples import oblique, uid, write_contours, write_radiograph, write_segmentation, write_series
from PIL import Image
from pydicom import dcmread

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import read_datalist
from fedhelp_med.data.scan import ScanOptions, read_split, scan
from fedhelp_med.transforms import LoadStudy

PIXELS = np.random.default_rng(0)


def picture(path, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS.integers(0, 256, size, np.uint8)).save(path)


def run(tmp_path, **options):
    result = scan(tmp_path / "data", tmp_path / "site/datalist.json", ScanOptions(**{"split": "100", **options}))
    with result.rejected_file.open() as file:
        reasons = {row["path"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)}
    return read_datalist(result.datalist), reasons, result


def by_name(datalist):
    items = [item for part in datalist.splits.values() for item in part]
    return {item["image"].rpartition("/")[2].partition(".")[0]: item for item in items}


def table(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("key", ["a.png", "a", "sub/a.png", "sub\\a.png"])
def test_a_table_by_file(key, delimiter, tmp_path):
    picture(tmp_path / "data/sub/a.png")
    picture(tmp_path / "data/b.png")
    rows = [("File", "Label", "Patient"), (key, "ill", "P7"), ("b.png", "healthy", "P8")]
    text = "\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n"
    datalist, reasons, _ = run(tmp_path, labels=table(tmp_path, text))
    assert reasons == {}
    assert datalist.classes == ("healthy", "ill")
    found = by_name(datalist)
    assert (found["a"]["label"], found["a"]["patient"], found["b"]["label"]) == (1, "P7", 0)


def test_a_table_by_patient_study_and_series(tmp_path):
    for patient in ("P 1", "p2"):
        write_series(tmp_path / "data" / patient, patient=patient)
    for kind, first in {
        "patient": "p1",  # spelt otherwise than in the files
        "StudyInstanceUID": uid("P 1", "study"),
        "series": uid("P 1", "MR", "series"),
    }.items():
        second = first.replace(uid("P 1", "study"), uid("p2", "study")).replace(
            uid("P 1", "MR", "series"), uid("p2", "MR", "series")
        )
        second = "P2" if kind == "patient" else second
        text = f"{kind},class\n{first},1\n{second},0\n"
        datalist, reasons, _ = run(tmp_path, labels=table(tmp_path, text))
        assert reasons == {}
        found = by_name(datalist)
        assert (found["P 1"]["label"], found["p2"]["label"]) == (1, 0)


def test_every_row_and_every_image_without_the_other_is_named(tmp_path):
    for name in "abcde":
        picture(tmp_path / f"data/{name}.png")
    text = "file,label\na.png,x\nb.png,\nc.png,x\nc.png,y\nz.png,x\ne.png,other\n"
    datalist, reasons, result = run(tmp_path, labels=table(tmp_path, text), classes=("x", "y"))
    assert set(by_name(datalist)) == {"a"}
    assert "empty; write one" in reasons["b.png"]
    assert "several labels (rows 4, 5)" in reasons["c.png"]
    assert "no row for it in labels.csv" in reasons["d.png"]
    assert "'other' is none of the classes x, y" in reasons["e.png"]
    assert reasons["labels.csv"] == "row 6: no image with the file 'z.png' was found"
    assert len(result.rejected) == 5


def test_folders_are_classes(tmp_path):
    for name in ("normal/a.png", "pneumonia/b.png", "pneumonia/more/c.png", "loose.png"):
        picture(tmp_path / "data" / name)
    datalist, reasons, _ = run(tmp_path, labels="folders", classes=("normal", "pneumonia"), public=True)
    assert datalist.public
    assert {name: item["label"] for name, item in by_name(datalist).items()} == {"a": 0, "b": 1, "c": 1}
    assert "lies in no folder" in reasons["loose.png"]


@pytest.mark.parametrize(
    ("pattern", "place"),
    [("{name}_mask.png", "images/{}_mask.png"), ("../masks/{name}.png", "masks/{}.png"),
     ("masks/{name}.*", "masks/{}.png"), ("{patient}/m.png", "{}/m.png")],
)  # fmt: skip
def test_masks_by_pattern(pattern, place, tmp_path):
    for name in "abc":
        picture(tmp_path / f"data/images/{name}.png")
    for name in "abx":
        mask = np.zeros((6, 8), np.uint8)
        mask[2:4] = 2
        path = tmp_path / "data" / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    datalist, reasons, _ = run(tmp_path, masks=pattern)
    assert datalist.classes == ("background", "class 1", "class 2")
    assert set(by_name(datalist)) == {"a", "b"}
    for name, item in by_name(datalist).items():
        assert item["label"].endswith(place.format(name))
    assert reasons.pop("c.png").startswith("no mask for it")
    assert list(reasons.values()) == ["a mask without its image; add the image"]


def test_masks_outside_the_scanned_folder_are_pointed_at(tmp_path):
    picture(tmp_path / "data/a.png")
    picture(tmp_path / "masks/a.png")
    with pytest.raises(InputError, match="no image that can be used"):
        run(tmp_path, masks="../masks/{name}.png")
    told = (tmp_path / "site/datalist.rejected.csv").read_text()
    assert "masks/a.png); it lies outside the scanned folder: scan one that holds both" in told


def test_masks_that_do_not_fit_and_masks_of_0_and_255(tmp_path):
    for name in "abc":
        picture(tmp_path / f"data/{name}.png")
    white = np.zeros((6, 8), np.uint8)
    white[1, 2] = 255
    Image.fromarray(white).save(tmp_path / "data/a_mask.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "data/b_mask.png")
    nibabel.save(nibabel.Nifti1Image(np.full((8, 6), 0.5), np.eye(4)), tmp_path / "data/c_mask.nii")
    datalist, reasons, result = run(tmp_path, masks="{name}_mask.*")
    assert "has the shape (5, 5), the image (8, 6)" in reasons["b.png"] and "b_mask.png" in reasons
    assert "not whole numbers" in reasons["c.png"]
    mask = LoadStudy(mask=True)(by_name(datalist)["a"]["label"]).numpy()
    assert np.argwhere(mask).tolist() == [[2, 1]] and mask.max() == 1
    assert result.notes == ["masks of 0 and 255 were written again as 0 and 1"]


@pytest.mark.parametrize("places", [("1/masks/s", "2/masks/s"), ("masks/左", "masks/右"), ("masks/a_1", "masks/a-1")])
def test_masks_that_are_written_again_keep_to_their_images(places, tmp_path):
    for number, place in enumerate(places):
        path = tmp_path / "data" / f"{place}.png"
        picture(path.parents[1] / "images" / path.name)
        white = np.zeros((6, 8), np.uint8)
        white[number] = 255
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(white).save(path)
    datalist, _, _ = run(tmp_path, masks="../masks/{name}.png")
    found = {item["image"]: LoadStudy(mask=True)(item["label"]).numpy() for item in datalist.splits["training"]}
    for number, place in enumerate(places):
        path = tmp_path / "data" / f"{place}.png"
        assert found[str(path.parents[1] / "images" / path.name)][:, number].all()


def test_masks_of_0_and_1_beside_masks_of_0_and_255(tmp_path):
    for name, high in {"a": [1], "b": [255], "c": [1, 255]}.items():
        picture(tmp_path / f"data/{name}.png")
        values = np.zeros((6, 8), np.uint8)
        values[0, : len(high)] = high
        Image.fromarray(values).save(tmp_path / f"data/{name}_mask.png")
    datalist, reasons, _ = run(tmp_path, masks="{name}_mask.png")
    assert datalist.classes == ("background", "class 1")
    for item in by_name(datalist).values():
        assert np.argwhere(LoadStudy(mask=True)(item["label"]).numpy()).tolist() == [[0, 0]]
    assert by_name(datalist)["a"]["label"].endswith("data/a_mask.png")  # as it was
    assert "c_mask.png holds 1 and 255, other masks" in reasons["c.png"]


def test_masks_whose_axes_run_otherwise_are_turned_onto_their_images(tmp_path):
    expected, affine = np.zeros((7, 6, 5), np.uint8), oblique()
    expected[1:3, 4, 0] = 1
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = 5
    mixed = np.zeros((4, 4))
    mixed[[2, 0, 1, 3], range(4)] = 1  # axes D, W, H
    shifted = affine.copy()
    shifted[0, 3] += 2
    masks = {  # dcm2niix writes rows from the bottom
        "flipped": (expected[:, ::-1], affine @ flip),
        "permuted": (expected.transpose(2, 0, 1), affine @ mixed),
        "as the image": (expected, affine),
        "shifted": (expected, shifted),
    }
    for name, (values, own) in masks.items():
        write_series(tmp_path / "data" / name, patient=name)
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values), own), tmp_path / f"data/{name}.nii.gz")
    datalist, reasons, result = run(tmp_path, masks="{name}.nii.gz")
    assert sorted(by_name(datalist)) == ["as the image", "flipped", "permuted"]
    for item in by_name(datalist).values():
        mask = LoadStudy(mask=True)(item["label"])
        np.testing.assert_array_equal(mask.numpy(), expected)
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    assert "its mask shifted.nii.gz lies elsewhere than its image (another affine, corners 2 mm" in reasons["000.dcm"]
    assert result.notes == ["2 mask(s) whose axes run otherwise than their images' were turned and rewritten"]


def test_masks_in_colour(tmp_path):
    grey = np.zeros((6, 8), np.uint8)
    grey[1, 2] = 1
    for name in "abc":
        Image.fromarray(PIXELS.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.move(tmp_path / f"{name}.png", tmp_path / f"data/{name}.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "data/a_mask.png")
    Image.fromarray(np.stack([grey * 3, grey, grey], axis=-1)).save(tmp_path / "data/b_mask.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "data/c_mask.png")
    datalist, reasons, _ = run(tmp_path, masks="{name}_mask.png")
    assert sorted(by_name(datalist)) == ["a", "c"]
    for item in by_name(datalist).values():
        assert LoadStudy(mask=True)(item["label"]).shape == (8, 6)
    assert "has the shape (8, 6, 3), the image (8, 6, 3) (the last axis is of colour)" in reasons["b.png"]


def test_the_folder_of_masks_is_listed_once(tmp_path, monkeypatch):
    for number in range(30):
        picture(tmp_path / f"data/images/{number}.png")
        Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / f"data/images/{number}_mask_1.png")
    listed = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))
    datalist, _, _ = run(tmp_path, masks="{name}_mask_*.png")
    assert len(datalist.splits["training"]) == 30
    assert len(listed) <= 2


def test_masks_beyond_the_classes(tmp_path):
    picture(tmp_path / "data/a.png")
    picture(tmp_path / "data/b.png")
    for name, value in {"a": 1, "b": 4}.items():
        Image.fromarray(np.full((6, 8), value, np.uint8)).save(tmp_path / f"data/{name}_mask.png")
    datalist, reasons, _ = run(tmp_path, masks="{name}_mask.png", classes=("background", "lesion"))
    assert set(by_name(datalist)) == {"a"}
    assert "holds 4 to 4; write class indices 0 to 1" in reasons["b.png"]


def blob(*slices):
    mask = np.zeros((7, 6, 5), bool)
    mask[slices] = True
    return mask


def test_a_segmentation_object_becomes_a_mask_on_the_grid_of_its_series(tmp_path):
    write_series(tmp_path / "data/series", names=lambda level: f"{(level * 2) % 5}")
    write_series(tmp_path / "data/bare", patient="P2")
    source = dcmread(tmp_path / "data/series/0")
    masks = {"Lesion": blob(slice(1, 4), 2, slice(1, 3)), "Vessel": blob(5, slice(0, 4), 4)}
    write_segmentation(tmp_path / "data/seg.dcm", masks, oblique(), source)
    datalist, reasons, _ = run(tmp_path)
    assert datalist.classes == ("background", "Lesion", "Vessel")
    assert len(reasons) == 5 and all("no usable DICOM SEG" in reason for reason in reasons.values())
    item = datalist.splits["training"][0]
    image, mask = LoadStudy()(item["image"]), LoadStudy(mask=True)(item["label"])
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    np.testing.assert_array_equal(mask.numpy(), masks["Lesion"] + 2 * masks["Vessel"])


def test_contours_become_a_mask_with_their_holes(tmp_path):
    write_series(tmp_path / "data/series", np.zeros((12, 11, 5), np.int16), oblique())
    source = dcmread(tmp_path / "data/series/000.dcm")
    outer = [(1.5, 1.5, 2), (9.5, 1.5, 2), (9.5, 8.5, 2), (1.5, 8.5, 2)]
    inner = [(3.5, 3.5, 2), (6.5, 3.5, 2), (6.5, 5.5, 2), (3.5, 5.5, 2)]
    write_contours(tmp_path / "data/rt.dcm", {"Tumour": [outer, inner], "Body": [outer]}, oblique(), source)
    datalist, reasons, result = run(tmp_path, classes=("background", "tumour"))
    assert reasons == {} and result.notes == ["regions left out, which are none of the classes: Body"]
    mask = LoadStudy(mask=True)(datalist.splits["training"][0]["label"]).numpy()
    expected = np.zeros((12, 11, 5))
    expected[2:10, 2:9, 2] = 1
    expected[4:7, 4:6, 2] = 0
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("names", [("Tumour", "Liver"), ("Liver", "Tumour")])
def test_of_regions_that_overlap_the_later_class_counts_in_any_order_of_the_file(names, tmp_path):
    write_series(tmp_path / "data/series")
    masks = {"Liver": blob(slice(1, 5), slice(1, 5), slice(1, 4)), "Tumour": blob(slice(2, 4), 2, 2)}
    source = dcmread(tmp_path / "data/series/000.dcm")
    write_segmentation(tmp_path / "data/seg.dcm", {name: masks[name] for name in names}, oblique(), source)
    datalist, _, result = run(tmp_path, classes=("background", "liver", "tumour"))
    mask = LoadStudy(mask=True)(datalist.splits["training"][0]["label"]).numpy()
    np.testing.assert_array_equal(mask, np.where(masks["Tumour"], 2, masks["Liver"]))
    assert result.notes == [
        "tumour lies over liver in 1 image(s), 2 voxel(s): the later class counts; give --classes with what lies "
        "inside after what holds it"
    ]


def test_label_objects_that_fit_nowhere_are_named(tmp_path):
    write_series(tmp_path / "data/series")
    source = dcmread(tmp_path / "data/series/000.dcm")
    shifted = oblique(origin=(-31.2, 12.25, 77.125))
    write_segmentation(tmp_path / "data/ok.dcm", {"a": blob(1, 1, 1)}, oblique(), source)
    write_segmentation(tmp_path / "data/shifted.dcm", {"a": blob(1, 1, 1)}, shifted, source)
    far = [(1, 1, 9), (3, 1, 9), (3, 3, 9)]
    write_contours(tmp_path / "data/beyond.dcm", {"a": [far]}, oblique(), source)
    source.SeriesInstanceUID = "1.2.3"
    write_segmentation(tmp_path / "data/orphan.dcm", {"a": blob(1, 1, 1)}, oblique(), source)
    _, reasons, _ = run(tmp_path)
    assert "another grid" in reasons["shifted.dcm"]
    assert "lies on no slice" in reasons["beyond.dcm"]
    assert "the series 1.2.3, which is not here" in reasons["orphan.dcm"]


def test_a_patient_is_in_one_split_however_it_is_spelt(tmp_path):
    for number in range(24):
        patient = f"Patient {number // 3}"
        spelt = (patient, patient.upper(), patient.replace(" ", ""))[number % 3]
        write_radiograph(tmp_path / f"data/{number:02d}.dcm", patient=spelt)
    text = "patient,label\n" + "".join(f"PATIENT{i},{i % 2}\n" for i in range(8))
    _, _, result = run(tmp_path, labels=table(tmp_path, text), split="50/25/25", seed=3)
    owners = {
        split: {"".join(item["patient"].split()).casefold() for item in items} for split, items in result.splits.items()
    }
    assert {split: len(items) for split, items in result.splits.items()} == {
        "training": 12, "validation": 6, "testing": 6
    }  # fmt: skip
    assert sum(map(len, owners.values())) == len(set().union(*owners.values())) == 8
    for items in result.splits.values():
        assert {item["label"] for item in items} == {0, 1}


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("chest/train/NORMAL", "chest/train/ILL", "chest/test/NORMAL", "chest/val/ILL"), ("ILL", "NORMAL")),
        (("chest/NORMAL", "chest/ILL/deeper"), ("ILL", "NORMAL")),
        (("training/a", "Testing/b"), ("a", "b")),
        (("a/x", "b/x"), ("a", "b")),
    ],
)
def test_folders_that_hold_everything_and_folders_of_splits_are_no_classes(folders, classes, tmp_path):
    for number, folder in enumerate(folders):
        picture(tmp_path / f"data/{folder}/{number}.png")
    datalist, reasons, result = run(tmp_path, labels="folders")
    assert (datalist.classes, reasons) == (classes, {})
    splits = "train" in str(folders)
    assert any("not used as splits: patients are divided anew" in note for note in result.notes) == splits
    assert any(note.startswith("all images lie in the folder chest:") for note in result.notes) == (
        "chest/" in folders[0]
    )


def test_the_folder_of_the_only_class_is_kept_where_it_is_named(tmp_path):
    write_series(tmp_path / "data/NORMAL/p1")
    write_series(tmp_path / "data/NORMAL/p2", patient="P2")
    datalist, _, _ = run(tmp_path, labels="folders", classes=("normal", "ill"))
    assert [item["label"] for item in datalist.splits["training"]] == [0, 0]


def test_folders_of_splits_beside_others_are_refused(tmp_path):
    for folder in ("train/NORMAL", "ILL"):
        picture(tmp_path / f"data/{folder}/0.png")
    with pytest.raises(InputError, match=r"^--labels folders: train beside ILL: folders of splits beside others"):
        run(tmp_path, labels="folders")
    datalist, _, _ = run(tmp_path, labels="folders", classes=("ILL", "train"), patients="(ILL|train)")
    assert {item["label"] for item in datalist.splits["training"]} == {0, 1}


def test_spellings_of_a_class_are_one_class(tmp_path):
    labels = ["Normal", "normal", "Pneumonia", "normal", " NORMAL"]
    for number in range(5):
        picture(tmp_path / f"data/{number}.png")
    text = "file,label\n" + "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    datalist, _, _ = run(tmp_path, labels=table(tmp_path, text))
    assert datalist.classes == ("normal", "Pneumonia")
    assert [item["label"] for item in datalist.splits["training"]] == [0, 0, 1, 0, 0]


def test_a_column_of_names_is_no_column_of_files(tmp_path):
    write_radiograph(tmp_path / "data/x.dcm", patient="P7")
    text = "name,patient,label\nDoe Jane,P7,ill\n"
    datalist, reasons, _ = run(tmp_path, labels=table(tmp_path, text))
    assert (datalist.classes, reasons) == (("ill",), {})


def test_images_that_name_no_patient_are_counted(tmp_path):
    for name in ("person1_bacteria_1", "person1_bacteria_2", "sub-01_x", "sub-02_x"):
        picture(tmp_path / f"data/{name}.png")
    write_radiograph(tmp_path / "data/a.dcm")
    told = "2 of 5 image(s) name no patient: files count as one patient by their names"
    assert any(note.startswith(told) for note in run(tmp_path, split="70/30")[2].notes)
    for options in ({"split": "100"}, {"split": "70/30", "patients": "person1|sub-[0-9]+|a"}):
        assert not any("no patient" in note for note in run(tmp_path, **options)[2].notes)
    text = "file,label,patient\n" + "".join(f"person1_bacteria_{n}.png,x,p{n}\n" for n in (1, 2))
    options = {"labels": table(tmp_path, text), "split": "50/50"}
    assert not any("no patient" in note for note in run(tmp_path, **options)[2].notes)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in "abcdefgh":
        picture(tmp_path / f"data/{'xy'[ord(name) % 2]}/{name}.png")
    texts = []
    for seed in (1, 1, 2):
        run(tmp_path, labels="folders", split="50/50", seed=seed)
        texts.append((tmp_path / "site/datalist.json").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_paths_series_and_choices(tmp_path):
    write_series(tmp_path / "data/own", patient="P1")
    write_series(tmp_path / "data/mixed", patient="P2", names=lambda level: f"a{level}")
    write_series(tmp_path / "data/mixed", patient="P2", modality="CT", names=lambda level: f"b{level}")
    datalist, reasons, _ = run(tmp_path, modality="MR")
    images = sorted(item["image"] for item in datalist.splits["training"])
    assert images[0] == str(tmp_path / "data/own")  # a series alone in its folder is that folder
    assert "/site/datalist.files/series/P2-MR" in images[1]
    assert all(LoadStudy()(image).shape == (7, 6, 5) for image in images)
    assert len(reasons) == 5 and all("modality CT; --modality MR" in reason for reason in reasons.values())
    datalist, reasons, _ = run(tmp_path, description="^CT", patients=r"data|(mixed|own)")
    assert [item["patient"] for item in datalist.splits["training"]] == ["mixed"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / "site", moved / "site")
    shutil.move(tmp_path / "data", moved / "data")
    content = json.loads((moved / "site/datalist.json").read_text())
    assert LoadStudy()(moved / "site" / content["training"][0]["image"]).shape == (7, 6, 5)  # links are relative


def test_a_medmnist_file_brings_its_labels_and_splits(tmp_path):
    (tmp_path / "data").mkdir()
    arrays = {}
    for split, count in {"train": 4, "val": 2, "test": 3}.items():
        arrays[f"{split}_images"] = PIXELS.integers(0, 256, (count, 6, 8), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "data/tiny.npz", **arrays)
    result = scan(tmp_path / "data/tiny.npz", tmp_path / "site/datalist.json")
    datalist = read_datalist(result.datalist)
    assert [datalist.samples(split) for split in ("training", "validation", "testing")] == [4, 2, 3]
    item = datalist.splits["testing"][1]
    np.testing.assert_array_equal(LoadStudy()(item["image"]).numpy().T, arrays["test_images"][1])
    assert item["label"] == 1
    public = scan(tmp_path / "data/tiny.npz", tmp_path / "site/datalist.json", ScanOptions(public=True))
    assert {split: len(items) for split, items in public.splits.items()} == {"training": 9}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"training": 14, "validation": 3, "testing": 3}),
        ({"public": True}, {"training": 20}),
        ({"public": True, "split": "50/50"}, {"training": 10, "validation": 10}),
    ],
)
def test_all_of_a_public_set_is_training_unless_a_split_is_asked_for(options, expected, tmp_path):
    for number in range(20):
        picture(tmp_path / f"data/{number:02d}.png")
    result = scan(tmp_path / "data", tmp_path / "site/datalist.json", ScanOptions(**options))
    assert {split: len(items) for split, items in result.splits.items()} == expected


def test_patients_by_path_are_those_of_dicom_too(tmp_path):
    for name in ("sub-01", "sub-02", "unnamed"):
        write_radiograph(tmp_path / f"data/{name}.dcm", patient="ID")
    datalist, reasons, _ = run(tmp_path, patients="sub-([0-9]+)")
    assert [item["patient"] for item in datalist.splits["training"]] == ["01", "02"]
    assert list(reasons) == ["unnamed.dcm"] and "does not match --patients" in reasons["unnamed.dcm"]


def test_a_scan_into_the_scanned_folder_finds_the_same_again(tmp_path):
    for name in ("data/a/000", "data/a/001"):
        picture(tmp_path / f"{name}.png")
        Image.fromarray(np.full((6, 8), 255, np.uint8)).save(tmp_path / f"{name}_mask.png")
    write_series(tmp_path / "data/dicom")
    out = tmp_path / "data/datalist.json"
    results = [scan(tmp_path / "data", out, ScanOptions(split="100", masks="{name}_mask.png")) for _ in range(2)]
    assert results[0].splits == results[1].splits
    assert results[0].rejected == results[1].rejected


@pytest.mark.parametrize("text", ["", "50/40", "70/30/0", "a/b", "25/25/25/25", "-10/110"])
def test_wrong_splits(text):
    with pytest.raises(InputError, match="--split"):
        read_split(text)


def test_wrong_options_are_one_message(tmp_path):
    picture(tmp_path / "data/a.png")
    for options, reason in [
        ({"labels": "folders", "masks": "{name}.png"}, "a class or a mask"),
        ({"labels": str(tmp_path / "none.csv")}, "does not exist"),
        ({"labels": table(tmp_path, "picture,verdict\na,1\n", "columns.csv")}, "needs `label`"),
        ({"masks": "mask.png"}, "write where the mask"),
        ({"patients": "(", "labels": "folders"}, "not a regular expression"),
        ({"labels": table(tmp_path, "file,label\nb.png,1\n")}, "no image that can be used"),
        ({"split": "50/50"}, "1 patient.* cannot fill 2 splits .*--patients"),
    ]:
        with pytest.raises(InputError, match=reason) as raised:
            run(tmp_path, **options)
        assert "\n" not in str(raised.value)
