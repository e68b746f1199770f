"""Sites from folders of blood-cell crops: who gets what, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from mask_sites import write_crops
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import describe_image, make_blood_cell_sites, read_datalist
from fedhelp_med.data.bloodcells import CLASSES

TINY = {
    "seed": 1,
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 3,
    "large_training": 6,
    "small_validation": 2,
    "large_validation": 3,
    "testing": 5,
    "public": 4,
    "foundation": 7,
}
WANTED = 2 * 5 + 9 + 5 + 4 + 7


def patients(datalist: Path) -> dict[str, list[str]]:
    return {split: [item["patient"] for item in items] for split, items in read_datalist(datalist).splits.items()}


def test_every_crop_has_one_place_but_the_shared_test_set(tmp_path):
    source = write_crops(tmp_path / "stain", WANTED)
    data = make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    taken: list[str] = []
    testing = []
    for site in data.sites:
        found = patients(site.datalist)
        sizes = (3, 2) if site.role == "small" else (6, 3)
        assert (len(found["training"]), len(found["validation"])) == sizes
        taken += found["training"] + found["validation"]
        testing.append(found["testing"])
    assert testing[0] == testing[1] == testing[2] and len(testing[0]) == 5
    foundation, public = patients(data.foundation), patients(data.public)
    assert (len(foundation["training"]), len(foundation["validation"])) == (6, 1)
    taken += testing[0] + foundation["training"] + foundation["validation"] + public["training"]
    assert sorted(taken) == [f"{index:03d}" for index in range(WANTED)]


def test_pictures_and_masks_are_those_of_the_folder(tmp_path):
    source = write_crops(tmp_path / "stain", WANTED)
    data = make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    datalist = read_datalist(data.sites[0].datalist)
    assert datalist.classes == CLASSES
    for item in datalist.splits["training"]:
        for key, folder in (("image", "images"), ("label", "masks")):
            with Image.open(item[key]) as own, Image.open(source / folder / f"{item['patient']}.png") as original:
                np.testing.assert_array_equal(np.asarray(own), np.asarray(original))
        assert describe_image(item["image"]).in_channels == 3
    assert not any("label" in item for item in read_datalist(data.public).splits["training"])
    private = (*(site.datalist for site in data.sites), data.foundation)
    assert read_datalist(data.public).public and not any(read_datalist(path).public for path in private)


def test_a_second_folder_gives_the_public_and_the_foundation_set(tmp_path):
    source, other = write_crops(tmp_path / "a", 25), write_crops(tmp_path / "b", 14, seed=9)
    data = make_blood_cell_sites(tmp_path / "demo", source, public_source=other, **TINY)
    assert "b" in read_datalist(data.public).name
    foundation, public = patients(data.foundation), patients(data.public)
    assert len(public["training"]) == 4 and len(foundation["training"]) + len(foundation["validation"]) == 7
    assert not set(public["training"]) & {*foundation["training"], *foundation["validation"]}


def test_a_small_folder_shrinks_all_but_the_small_sites(tmp_path):
    source = write_crops(tmp_path / "stain", 10 + (WANTED - 10) // 2)
    data = make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    assert [len(patients(site.datalist)["training"]) for site in data.sites] == [3, 3, 2]
    with pytest.raises(InputError, match="11 crops are too few"):
        make_blood_cell_sites(tmp_path / "other", write_crops(tmp_path / "few", 11), **TINY)


def test_the_same_again_is_used_again_and_another_seed_divides_otherwise(tmp_path):
    source = write_crops(tmp_path / "stain", WANTED)
    first = make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    stamp = first.public.stat().st_mtime_ns
    assert make_blood_cell_sites(tmp_path / "demo", source, **TINY) == first
    assert first.public.stat().st_mtime_ns == stamp
    before = patients(first.public)
    make_blood_cell_sites(tmp_path / "demo", source, **{**TINY, "seed": 2})
    assert patients(first.public) != before


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no images/\*\.png"):
        make_blood_cell_sites(tmp_path / "demo", tmp_path, **TINY)
    source = write_crops(tmp_path / "stain", WANTED)
    mask = source / "masks" / "003.png"
    good = mask.read_bytes()
    mask.unlink()
    with pytest.raises(InputError, match=r"masks/003\.png is missing"):
        make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    mask.write_bytes(good[:40])
    with pytest.raises(InputError, match=r"003\.png: cannot be read"):
        make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"003\.png: holds the value 255"):
        make_blood_cell_sites(tmp_path / "demo", source, **TINY)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"003\.png: .*its mask"):
        make_blood_cell_sites(tmp_path / "demo", source, **TINY)


@pytest.mark.integration
def test_the_real_crops(shared_data, tmp_path):
    data = make_blood_cell_sites(tmp_path / "a", shared_data / "wbc_jiangxi", seed=0)
    assert [len(patients(site.datalist)["training"]) for site in data.sites] == [8] * 4 + [40] * 2
    other = make_blood_cell_sites(
        tmp_path / "b", shared_data / "wbc_jiangxi", seed=0, public_source=shared_data / "wbc_cellavision"
    )
    assert len(patients(other.public)["training"]) == 40
