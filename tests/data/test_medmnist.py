from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import describe_image, make_medmnist_sites, read_datalist
from fedhelp_med.data.medmnist import stratified_order

TINY = {
    "seed": 1,
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 4,
    "large_training": 8,
    "small_validation": 2,
    "large_validation": 4,
    "testing": 4,
    "public": 8,
    "foundation": 20,
}


def write_npz(path: Path, shape=(9, 7), train=60, val=12, test=12, classes=2) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    np.savez(path, **arrays)
    return path


def studies(path, split):
    return [item["patient"] for item in read_datalist(path).splits.get(split, [])]


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    seed=st.integers(0, 99),
    cuts=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_every_run_of_the_order_has_the_classes_in_proportion(labels, seed, cuts):
    labels = np.array(labels)
    order = stratified_order(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    start, stop = sorted(cuts)
    run = labels[order[start:stop]]
    for label in np.unique(labels):
        share = np.mean(labels == label)
        # even spacing: each class is at most one off, which moves the run's length by one per class
        assert abs(np.sum(run == label) - share * len(run)) <= 1 + share * len(np.unique(labels)) + 1e-9


def test_grey_pictures_keep_their_pixels(tmp_path):
    npz = write_npz(tmp_path / "grey.npz")
    data = make_medmnist_sites(tmp_path / "demo", npz, **TINY)
    item = read_datalist(data.sites[0].datalist).splits["training"][0]
    index = int(item["patient"].removeprefix("train-"))
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), arrays["train_images"][index])
        assert item["label"] == arrays["train_labels"][index, 0]


@pytest.mark.parametrize(("shape", "channels"), [((9, 7), 1), ((9, 7, 3), 3), ((5, 9, 7), 5)])
def test_pictures_and_volumes_as_a_2d_network_sees_them(shape, channels, tmp_path):
    data = make_medmnist_sites(tmp_path / "demo", write_npz(tmp_path / "x.npz", shape, classes=3), **TINY)
    datalist = read_datalist(data.sites[0].datalist)
    assert datalist.classes == ("class 0", "class 1", "class 2")
    seen = describe_image(datalist.splits["training"][0]["image"])
    assert (seen.in_channels, seen.spatial_shape) == (channels, (7, 9))


def test_nothing_is_in_two_places(tmp_path):
    data = make_medmnist_sites(tmp_path / "demo", write_npz(tmp_path / "x.npz"), **TINY)
    training = [studies(site.datalist, "training") for site in data.sites]
    held_out = [studies(data.public, "training"), *(studies(data.foundation, s) for s in ("training", "validation"))]
    for parts in (training + held_out, *([studies(s.datalist, k) for s in data.sites] for k in ("validation",))):
        together = [study for part in parts for study in part]
        assert len(together) == len(set(together))
    assert [len(part) for part in training + held_out] == [4, 4, 8, 8, 20, 2]


def test_every_site_has_test_studies_of_its_own_where_there_are_enough(tmp_path):
    data = make_medmnist_sites(tmp_path / "own", write_npz(tmp_path / "x.npz", test=12), **TINY)
    own = [studies(site.datalist, "testing") for site in data.sites]
    assert [len(part) for part in own] == [4, 4, 4]
    assert len(set().union(*own)) == 12
    data = make_medmnist_sites(tmp_path / "shared", write_npz(tmp_path / "x.npz", test=11), **TINY)
    shared = [set(studies(site.datalist, "testing")) for site in data.sites]
    assert all(len(part) == 11 for part in shared)


def test_a_short_validation_split_is_shared_out(tmp_path):
    data = make_medmnist_sites(
        tmp_path / "demo", write_npz(tmp_path / "x.npz", val=9), **{**TINY, "small_validation": 4}
    )
    assert [len(studies(site.datalist, "validation")) for site in data.sites] == [3, 3, 3]


@pytest.mark.parametrize(("sizes", "key"), [({"train": 19}, "train_images: 19"), ({"val": 5}, "val_images: 5")])
def test_too_few_studies(sizes, key, tmp_path):
    with pytest.raises(InputError, match=rf"x\.npz: {key} studies are too few.*(lower|fewer)"):
        make_medmnist_sites(tmp_path / "demo", write_npz(tmp_path / "x.npz", **sizes), **TINY)
    assert not (tmp_path / "demo").exists()


def test_a_changed_file_is_not_taken_for_the_old_one(tmp_path):
    make_medmnist_sites(tmp_path / "demo", write_npz(tmp_path / "x.npz"), **TINY)
    data = make_medmnist_sites(tmp_path / "demo", write_npz(tmp_path / "x.npz", shape=(5, 5)), **TINY)
    image = read_datalist(data.sites[0].datalist).splits["training"][0]["image"]
    assert describe_image(image).spatial_shape == (5, 5)


@pytest.mark.integration
def test_chest_xrays(shared_data, tmp_path):
    data = make_medmnist_sites(tmp_path / "demo", shared_data / "pneumoniamnist.npz", seed=0)
    assert [(site.name, site.role) for site in data.sites] == [
        *((f"clinic-{letter}", "small") for letter in "abcd"),
        *((f"hospital-{letter}", "large") for letter in "ab"),
    ]
    for site in data.sites:
        datalist = read_datalist(site.datalist)
        training = 20 if site.role == "small" else 100
        validation = 24 if site.role == "small" else 60
        assert [datalist.samples(s) for s in ("training", "validation", "testing")] == [training, validation, 263]
        counts = Counter(item["label"] for item in datalist.splits["training"])
        assert counts[0] == pytest.approx(training * 0.1, abs=1)  # 388 of 3,882 are normal
        assert Counter(item["label"] for item in datalist.splits["testing"]) == {0: 68, 1: 195}
    public = read_datalist(data.public)
    assert public.samples("training") == 400
    assert public.class_count is None
    foundation = read_datalist(data.foundation)
    assert [foundation.samples(s) for s in ("training", "validation")] == [1200, 120]


@pytest.mark.integration
def test_chest_xrays_with_pictures_of_another_kind(shared_data, tmp_path):
    pictures = shared_data / "mednist_300_per_class.zip"
    data = make_medmnist_sites(
        tmp_path / "demo", shared_data / "pneumoniamnist.npz", seed=0, public_zip=pictures, public=1000
    )
    public, foundation = read_datalist(data.public), read_datalist(data.foundation)
    assert public.classes == foundation.classes
    assert public.classes == ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
    sizes = [public.samples("training"), foundation.samples("training"), foundation.samples("validation")]
    assert sizes == [900, 819, 81]  # halves of 1,800
    parts = [studies(data.public, "training"), *(studies(data.foundation, s) for s in ("training", "validation"))]
    assert len({study for part in parts for study in part}) == 1800
    for item in public.splits["training"][:20]:
        assert item["patient"].startswith(public.classes[item["label"]] + "/")
        assert describe_image(item["image"]).in_channels == 1
