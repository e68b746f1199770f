"""What ``data check`` finds in datalists that were made by hand, by a scan, or by accident."""

import gzip
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from conftest import write_site
from dicom_samples import oblique, ramp, write_series
from PIL import Image

from fedhelp_med.data.check import ERROR, WARNING, as_json, check_site
from fedhelp_med.data.check_page import Thumbnails, draw, page
from fedhelp_med.data.check_sound import all_problems, balance
from fedhelp_med.data.datalist import write_datalist

PIXELS = np.random.default_rng(1)


def volume(path, values=None, affine=None):
    values = PIXELS.integers(0, 900, (6, 5, 4)).astype(np.int16) if values is None else values
    nibabel.save(nibabel.Nifti1Image(values, oblique() if affine is None else affine), path)
    return str(path)


def mask(path, values=(1,), shape=(6, 5, 4), affine=None, dtype=np.int16):
    content = np.zeros(shape, dtype)
    for index, value in enumerate(values):
        content[index, 1] = value
    return volume(path, content, affine)


def segmentation_site(folder, count=4, **changes):
    """A site of small volumes with masks; ``changes`` has other masks by index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    items = []
    for index in range(count):
        image = volume(folder / f"{index}.nii")
        label = changes.get(f"mask{index}", mask)(folder / f"masks/{index}.nii")
        items.append({"image": image, "label": label, "patient": f"{folder.name}-{index}"})
    path = folder / "datalist.json"
    splits = {"training": items[:-2], "validation": items[-2:-1], "testing": items[-1:]}
    write_datalist(path, name=folder.name, classes=("background", "lesion"), splits=splits)
    return path


def problems(*paths):
    return all_problems([check_site(path) for path in paths])


def kinds(found, level=ERROR):
    return {problem.kind for problem in found if problem.level == level}


def test_sites_of_different_orientation_are_told_once(tmp_path):
    paths = []
    for name in "abc":
        path = segmentation_site(tmp_path / name)
        if name == "b":
            for index in range(4):
                affine = np.diag([-1.0, 1.0, 2.0, 1.0])
                volume(tmp_path / f"b/{index}.nii", affine=affine)
                mask(tmp_path / f"b/masks/{index}.nii", affine=affine)
        paths.append(path)
    found = [problem for problem in problems(*paths) if problem.kind == "orientation of sites"]
    assert [(problem.level, problem.site) for problem in found] == [(WARNING, "b")]
    usual = "".join(nibabel.aff2axcodes(oblique()))
    assert found[0].reason == f"LAS, but a has {usual}; put Orientationd after the loader"


def channel_site(folder, shapes):
    folder.mkdir()
    items = []
    for index, shape in enumerate(shapes):
        values = PIXELS.integers(0, 256, shape).astype(np.uint8)
        path = folder / f"{index}.{'png' if shape[-1] in (3, 4) else 'nii'}"
        Image.fromarray(values).save(path) if path.suffix == ".png" else volume(path, values)
        items.append({"image": str(path), "label": index % 2, "patient": str(index)})
    write_datalist(folder / "datalist.json", name=folder.name, classes=("a", "b"), splits={"training": items})
    return folder / "datalist.json"


@pytest.mark.parametrize(
    ("shapes", "dims", "level", "reason"),
    [
        ([(6, 5, 8), (6, 5, 8), (6, 5, 10), (6, 5, 8)], 2, ERROR, "10 slices, which are the channels .* have 8"),
        ([(6, 5, 8), (6, 5, 8), (6, 5, 10), (6, 5, 8)], None, WARNING, "volumes of 8 to 10 slices"),
        ([(6, 5, 8), (6, 5, 8), (6, 5, 10), (6, 5, 8)], 3, None, ""),
        ([(6, 5, 3), (6, 5, 3), (6, 5, 4)], None, ERROR, "4 channels; most images have 3"),
        ([(6, 5, 8), (6, 5, 8)], 2, None, ""),
    ],
)
def test_images_have_one_number_of_channels(shapes, dims, level, reason, tmp_path):
    site = check_site(channel_site(tmp_path / "a", shapes), spatial_dims=dims)
    found = [problem for problem in all_problems([site]) if problem.kind == "channels"]
    assert [problem.level for problem in found] == ([] if level is None else [level])
    assert all(re.search(reason, problem.reason) for problem in found)


def test_a_good_site_is_sound_and_described(tmp_path):
    path = segmentation_site(tmp_path / "a")
    site = check_site(path)
    assert all_problems([site]) == []
    image = site.images[0]
    assert (image.shape, image.mask_values, image.split) == ((6, 5, 4), (0, 1), "training")
    assert image.spacing == pytest.approx((0.7, 0.9, 2.5), abs=1e-3)
    assert image.orientation == "".join(nibabel.aff2axcodes(oblique()))
    assert balance(site, "training") == {0: 2, 1: 2}
    assert as_json([site], [])["sound"] is True
    assert json.loads(json.dumps(as_json([site], [])))["sites"][0]["images"][0]["shape"] == [6, 5, 4]


def nan_image(folder):
    values = np.ones((6, 5, 4), np.float32)
    values[1, 1, 1] = np.nan
    volume(folder / "0.nii", values)


def broken_gzip(folder):
    packed = bytearray(gzip.compress((folder / "0.nii").read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    (folder / "0.nii").write_bytes(packed)


def edit_datalist(edit):
    def change(folder):
        path = folder / "datalist.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


DAMAGE = {
    "NaN voxels": (nan_image, ERROR, "not finite", "1 of 120 values are NaN"),
    "constant image": (lambda f: volume(f / "0.nii", np.full((6, 5, 4), 7.0)), WARNING, "constant", "every value is 7"),
    "empty image file": (lambda f: (f / "0.nii").write_bytes(b""), ERROR, "unreadable", "empty: 0 bytes"),
    "text as image": (lambda f: (f / "0.nii").write_text("note " * 99), ERROR, "unreadable", "a text"),
    "cut off image": (lambda f: (f / "0.nii").write_bytes((f / "0.nii").read_bytes()[:400]), ERROR, "unreadable", "."),
    "damaged compression": (broken_gzip, ERROR, "unreadable", "cannot be read|gzip|damaged"),
    "missing image": (lambda f: (f / "0.nii").unlink(), ERROR, "unreadable", "does not exist"),
    "missing mask": (lambda f: (f / "masks/0.nii").unlink(), ERROR, "mask unreadable", "does not exist"),
    "mask of another shape": (
        lambda f: mask(f / "masks/0.nii", shape=(6, 5, 3)), ERROR, "mask shape", r"\(6, 5, 3\).*\(6, 5, 4\)"),
    "mask elsewhere": (
        lambda f: mask(f / "masks/0.nii", affine=oblique(origin=(0, 0, 0))), ERROR, "mask place", "lies elsewhere"),
    "mask value out of range": (
        lambda f: mask(f / "masks/0.nii", values=(1, 7)), ERROR, "mask values", "it holds 0, 1, 7; .* 0 to 1"),
    "negative mask value": (lambda f: mask(f / "masks/0.nii", values=(-1,)), ERROR, "mask values", "holds -1"),
    "mask of fractions": (
        lambda f: mask(f / "masks/0.nii", values=(0.5,), dtype=np.float32), ERROR, "mask unreadable", "whole numbers"),
    "empty mask": (lambda f: mask(f / "masks/0.nii", values=()), WARNING, "empty mask", "nothing is marked"),
    "mask without image": (lambda f: mask(f / "masks/extra.nii"), WARNING, "loose mask", "no image of the datalist"),
    "duplicate in the split": (
        lambda f: shutil.copy(f / "0.nii", f / "1.nii"), WARNING, "duplicate", "the same pixels as"),
    "duplicate across splits": (
        lambda f: shutil.copy(f / "0.nii", f / "3.nii"), ERROR, "duplicate", "a leak between the splits"),
    "image of other axes": (lambda f: volume(f / "0.nii", np.eye(6)), ERROR, "axes|mask shape", "."),
    "other orientation": (
        lambda f: (volume(f / "0.nii", affine=np.eye(4) * 2), mask(f / "masks/0.nii", affine=np.eye(4) * 2)),
        WARNING, "orientation", "put Orientationd"),
    "image without label": (
        edit_datalist(lambda c: c["training"][0].pop("label")), ERROR, "no label", "without label among labelled"),
    "label without image": (
        edit_datalist(lambda c: c["training"][0].pop("image")), ERROR, "no image", "a label without an image"),
    "label that is none": (
        edit_datalist(lambda c: c["training"][0].update(label=[1])), ERROR, "datalist", "write one class index"),
    "patient in two splits": (
        edit_datalist(lambda c: c["testing"][0].update(patient=" A-0 ")), ERROR, "datalist", "keep all images of one"),
    "no training": (edit_datalist(lambda c: c.update(training=[])), ERROR, "training", "nothing to train on"),
    "not JSON": (lambda f: (f / "datalist.json").write_text("{"), ERROR, "datalist", "not JSON"),
    "one class": (edit_datalist(lambda c: c.update(labels={"0": "all"})), ERROR, "classes", "one class only"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_rest_is_still_read(name, tmp_path):
    damage, level, kind, reason = DAMAGE[name]
    path = segmentation_site(tmp_path / "a", count=5)
    damage(tmp_path / "a")
    site = check_site(path)
    found = [problem for problem in all_problems([site]) if problem.level == level and problem.kind in kind.split("|")]
    assert found, all_problems([site])
    assert any(re.search(reason, problem.reason) for problem in found)
    assert all("\n" not in problem.reason for problem in found)
    if name != "not JSON":
        assert len(site.images) >= 2


def test_classes_and_their_balance(tmp_path):
    path = write_site(tmp_path / "a", training=30, classes=3)
    assert kinds(problems(path)) == set()
    content = json.loads(path.read_text())
    content["training"] = [item for item in content["training"] if item["label"] == 0] + content["training"][1:2]
    content["labels"]["3"] = "never seen"
    path.write_text(json.dumps(content))
    found = problems(path)
    missing = {problem.reason.split(";")[0] for problem in found if problem.kind == "class missing"}
    assert "no training image of class 2 (class 2)" in missing
    assert "no training image of class 3 (never seen)" in missing
    content["labels"].pop("3")
    content["training"][0]["label"] = 9
    path.write_text(json.dumps(content))
    assert "datalist" in kinds(problems(path))
    skewed = write_site(tmp_path / "b", training=2)
    content = json.loads(skewed.read_text())
    for index in range(40):
        Image.fromarray(PIXELS.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / f"b/images/n{index}.png")
        content["training"].append({"image": f"images/n{index}.png", "label": 0})
    skewed.write_text(json.dumps(content))
    assert "balance" in kinds(problems(skewed), WARNING)


def test_sites_of_one_federation_are_compared(tmp_path):
    first, second = write_site(tmp_path / "a", seed=1), write_site(tmp_path / "b", seed=2)
    assert kinds(problems(first, second)) == set()
    shutil.copy(tmp_path / "a/images/training-0.png", tmp_path / "b/images/testing-0.png")
    found = [problem for problem in problems(first, second) if problem.kind == "duplicate"]
    assert [(problem.level, problem.site) for problem in found] == [(ERROR, "b")]
    assert "of a (training)" in found[0].reason
    content = json.loads(second.read_text())
    content["labels"] = {"0": "ill", "1": "healthy"}
    second.write_text(json.dumps(content))
    assert "classes" in kinds(problems(first, second))


@pytest.mark.parametrize("order", [1, -1])
def test_a_public_set_may_have_classes_of_its_own(order, tmp_path):
    site, public = write_site(tmp_path / "clinic"), write_site(tmp_path / "public", classes=3, seed=1)
    content = json.loads(public.read_text())
    content["labels"]["0"] = "hand"
    public.write_text(json.dumps(content | {"public": True}))
    found = [problem for problem in problems(*[site, public][::order]) if problem.kind == "classes"]
    assert [(problem.level, problem.site) for problem in found] == [(WARNING, "public")]
    assert "classes ('hand', 'class 1', 'class 2'), but clinic has ('class 0', 'class 1')" in found[0].reason
    public.write_text(json.dumps(content))
    assert "classes" in kinds(problems(site, public))


def test_unlabelled_data_are_a_public_set(tmp_path):
    found = problems(write_site(tmp_path / "a", labelled=False))
    assert kinds(found) == set()
    assert any("usable as a public set only" in problem.reason for problem in found)


def test_a_dicom_series_and_its_tilt(tmp_path):
    tilted = oblique()
    tilted[:3, 2] += [0, 0, 0.8]
    write_series(tmp_path / "a/one", ramp(), tilted)
    write_series(tmp_path / "a/two", ramp() * 2, oblique(), patient="P2")
    items = [{"image": str(tmp_path / "a/one")}, {"image": str(tmp_path / "a/two")}]
    write_datalist(tmp_path / "a/datalist.json", name="a", classes=None, splits={"training": items})
    site = check_site(tmp_path / "a/datalist.json")
    assert [image.shape for image in site.images] == [(7, 6, 5), (7, 6, 5)]
    assert "gantry tilt of" in next(problem.reason for problem in site.problems if problem.kind == "tilt")


def test_the_page_shows_images_and_escapes_names(tmp_path):
    path = segmentation_site(tmp_path / "a")
    thumbnails = Thumbnails(most=3)
    site = check_site(path, "<b>site</b>", thumbnails)
    text = page([site], all_problems([site]), thumbnails)
    assert text.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;site&lt;/b&gt;" in text and "<b>site" not in text
    assert "1 more are not shown" in text


def test_a_thumbnail_is_the_middle_slice_with_the_outline_of_the_mask():
    values = np.zeros((9, 7, 5), np.float32)
    values[:, :, 2] = 100
    marked = np.zeros((9, 7, 5), np.int64)
    marked[2:7, 1:6, 3] = 1
    assert draw(values, None).shape == (7, 9, 3)
    picture = draw(values, marked)  # of the slice with the mask, which is black here
    outline = (picture == [255, 176, 0]).all(axis=2)
    assert outline.sum() == 16 and outline[1, 2] and not outline[3, 4]
    assert draw(np.zeros((4, 6, 3), np.float32), None).shape == (6, 4, 3)
