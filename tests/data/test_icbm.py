import json
import subprocess
import sys
import zipfile
from collections import Counter

import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import make_icbm_sites, read_datalist
from fedhelp_med.data.demo import DemoSite
from fedhelp_med.data.picture_sets import png

pytestmark = pytest.mark.integration

TINY = {
    "seed": 3,
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 4,
    "large_training": 6,
    "small_validation": 2,
    "large_validation": 4,
    "testing": 4,
    "public": 4,
    "foundation": 16,
    "foundation_validation": 4,
}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, make_icbm_sites(folder, **TINY)


def test_sites_roles_and_sizes(demo):
    folder, data = demo
    assert data.sites == [
        DemoSite("clinic-a", "small", folder / "sites/clinic-a/datalist.json"),
        DemoSite("clinic-b", "small", folder / "sites/clinic-b/datalist.json"),
        DemoSite("hospital-a", "large", folder / "sites/hospital-a/datalist.json"),
    ]
    sizes = []
    for site in data.sites:
        datalist = read_datalist(site.datalist, require=("training", "validation", "testing"))
        sizes.append([datalist.samples(split) for split in ("training", "validation", "testing")])
        assert datalist.class_count == 2
        assert "simulated" in datalist.name
        assert "simulated" in datalist.classes[1]
    assert sizes == [[4, 2, 4], [4, 2, 4], [6, 4, 4]]


def test_classes_are_balanced_and_the_public_set_is_unlabelled(demo):
    _, data = demo
    for path in (*(site.datalist for site in data.sites), data.foundation):
        for items in read_datalist(path).splits.values():
            counts = Counter(item["label"] for item in items)
            assert counts[0] == counts[1]
    public = read_datalist(data.public)
    assert public.class_count is None
    assert not any("label" in item for item in public.splits["training"])


def test_a_study_is_a_slab_in_millimetres(demo):
    _, data = demo
    for path in (data.sites[0].datalist, data.public, data.foundation):
        image = nibabel.load(read_datalist(path).splits["training"][0]["image"])
        assert image.shape == (64, 64, 8)
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units()[0] == "mm"
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        spacing = np.array(image.header.get_zooms())
        assert ((spacing >= 0.9) & (spacing <= 1.15)).all()
        middle = image.affine @ [31.5, 31.5, 3.5, 1]  # lies in the brain, in the template's millimetres
        assert (np.abs(middle[:3]) < [75, 110, 75]).all()
        assert LoadImage(image_only=True)(image.get_filename()).shape == (64, 64, 8)


def test_no_two_studies_are_alike(demo):
    folder, _ = demo
    files = sorted([*folder.rglob("*.nii"), *folder.rglob("*.dcm")])
    assert len(files) == 10 + 8 * 10 + 14 + 4 + 20  # the second clinic stores series of eight slices
    assert len({path.read_bytes() for path in files}) == len(files)


def test_same_seed_same_bytes_whatever_the_threads(demo, tmp_path):
    folder, _ = demo
    program = (
        "import sys, json, torch, pathlib; torch.set_num_threads(2)\n"
        "from fedhelp_med.data import make_icbm_sites\n"
        "make_icbm_sites(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), json.dumps(TINY)], check=True)
    assert contents(tmp_path) == contents(folder)


def test_another_seed_other_studies(demo, tmp_path):
    _, data = demo
    other = make_icbm_sites(tmp_path, **{**TINY, "seed": 4})
    images = [read_datalist(d.foundation).splits["training"][0]["image"] for d in (data, other)]
    assert open(images[0], "rb").read() != open(images[1], "rb").read()  # noqa: SIM115, PTH123


def test_more_studies_elsewhere_leave_a_site_as_it_is(demo, tmp_path):
    folder, _ = demo
    make_icbm_sites(tmp_path, **{**TINY, "public": 6, "large_training": 8, "small_sites": 1})
    assert contents(tmp_path / "sites/clinic-a") == contents(folder / "sites/clinic-a")


def test_pictures_of_another_domain_take_the_place_of_the_public_set_only(demo, tmp_path):
    pictures = tmp_path / "pictures.zip"
    with zipfile.ZipFile(pictures, "w") as archive:
        for index in range(6):
            archive.writestr(
                f"{'hands' if index % 2 else 'heads'}/{index}.png", png(np.full((48, 40), 40 * index, np.uint8))
            )
    folder, _ = demo
    data = make_icbm_sites(tmp_path / "far", public_zip=pictures, **TINY)
    for part in ("sites", "foundation"):
        assert contents(tmp_path / "far" / part) == contents(folder / part)
    public = read_datalist(data.public)
    items = public.splits["training"]
    assert public.public and public.class_count is None and not any("label" in item for item in items)
    levels = {int(LoadImage(image_only=True)(item["image"]).unique().item()) for item in items}
    assert len(levels) == len(items) == TINY["public"] and levels < set(range(0, 240, 40))
    assert len({item["patient"] for item in items}) == len(items)

    before = contents(tmp_path / "far")
    make_icbm_sites(tmp_path / "far", public_zip=pictures, **TINY)
    assert contents(tmp_path / "far") == before
    with zipfile.ZipFile(pictures, "a") as archive:
        archive.writestr("hands/other.png", png(np.full((48, 40), 7, np.uint8)))
    make_icbm_sites(tmp_path / "far", public_zip=pictures, **TINY)
    assert contents(tmp_path / "far") != before


def test_complete_data_is_used_again_and_damaged_data_is_made_anew(tmp_path):
    data = make_icbm_sites(tmp_path, **TINY)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert make_icbm_sites(tmp_path, **TINY) == data
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    whole = contents(tmp_path)
    next(tmp_path.rglob("clinic-a/images/testing-0001.nii")).unlink()
    make_icbm_sites(tmp_path, **TINY)
    assert contents(tmp_path) == whole
    make_icbm_sites(tmp_path, **{**TINY, "small_sites": 1})
    assert sorted(path.name for path in (tmp_path / "sites").iterdir()) == ["clinic-a", "hospital-a"]


def test_foreign_data_is_never_overwritten(tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"sites: already there, and not written by the demo; choose another"):
        make_icbm_sites(tmp_path, **TINY)
    assert contents(tmp_path) == {(tmp_path / "sites/mine.txt").relative_to(tmp_path): b"precious"}


@pytest.mark.parametrize(
    ("key", "value"), [("small_training", 0), ("testing", 1), ("public", -3), ("small_sites", 27), ("large_sites", -1)]
)
def test_counts_out_of_range(key, value, tmp_path):
    with pytest.raises(InputError, match=rf"{key}: {value} is not valid; choose"):
        make_icbm_sites(tmp_path, **{**TINY, key: value})
    assert not list(tmp_path.iterdir())


def test_no_sites_at_all(tmp_path):
    with pytest.raises(InputError, match="choose at least one site"):
        make_icbm_sites(tmp_path, **{**TINY, "small_sites": 0, "large_sites": 0})
