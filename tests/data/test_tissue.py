import json
import subprocess
import sys
from functools import partial

import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import describe_image, make_tissue_sites, read_datalist
from fedhelp_med.data.simulated_scan import as_nifti
from fedhelp_med.data.template import Anatomy, cells, find_template, load_template
from fedhelp_med.data.tissue import TISSUE, make_slice, tissue_mask

pytestmark = pytest.mark.integration

TINY = {
    "seed": 3,
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 3,
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
    folder = tmp_path_factory.mktemp("tissue")
    return folder, make_tissue_sites(folder, **TINY)


def test_roles_sizes_and_classes(demo):
    _, data = demo
    assert [(site.name, site.role) for site in data.sites] == [
        ("clinic-a", "small"),
        ("clinic-b", "small"),
        ("hospital-a", "large"),
    ]
    sizes = []
    for site in data.sites:
        datalist = read_datalist(site.datalist, require=("training", "validation", "testing"))
        sizes.append([datalist.samples(split) for split in ("training", "validation", "testing")])
        assert datalist.is_segmentation and datalist.classes == TISSUE.classes and datalist.class_count == 3
    assert sizes == [[3, 2, 4], [3, 2, 4], [6, 4, 4]]
    public = read_datalist(data.public)
    assert public.classes is None and not any("label" in item for item in public.splits["training"])
    foundation = read_datalist(data.foundation)
    assert (foundation.samples("training"), foundation.samples("validation")) == (16, 4)


def test_a_study_is_a_slice_in_millimetres_and_its_mask_has_the_same_geometry(demo):
    _, data = demo
    for path in (data.sites[0].datalist, data.foundation):
        for item in read_datalist(path).splits["training"]:
            image, mask = (nibabel.load(item[key]) for key in ("image", "label"))
            assert image.shape == mask.shape == (64, 64)
            assert image.get_data_dtype() == np.int16 and mask.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(image.affine, mask.affine)
            assert image.header.get_xyzt_units()[0] == "mm"
            assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
            assert ((np.diag(image.affine)[:2] >= 0.9) & (np.diag(image.affine)[:2] <= 1.1)).all()
            middle = image.affine @ [31.5, 31.5, 0, 1]
            assert (np.abs(middle[:3]) < [75, 110, 75]).all()
            assert set(np.unique(mask.dataobj)) <= {0, 1, 2}
            assert LoadImage(image_only=True)(item["image"]).shape == (64, 64)
            assert describe_image(item["image"]).channel_dim == "no_channel"


def test_masks_are_the_likeliest_class():
    grey, white = np.array([0.1, 0.5, 0.2, 0.34, 0.0]), np.array([0.2, 0.1, 0.7, 0.33, 0.6])
    maps = np.stack([np.zeros(5), grey, white]).astype(np.float32).reshape(3, 1, 1, 5)
    assert tissue_mask(maps).ravel().tolist() == [0, 1, 2, 1, 2]


def test_masks_match_the_anatomy(demo):
    """White matter is brighter than grey, grey than the background, in every study's own T1 image."""
    _, data = demo
    brightness = []
    for item in read_datalist(data.sites[-1].datalist).splits["training"]:
        image, mask = (np.asarray(nibabel.load(item[key]).dataobj) for key in ("image", "label"))
        brightness.append([np.median(image[mask == value]) for value in range(3)])
        assert (np.bincount(mask.ravel(), minlength=3)[1:] > 100).all()
    brightness = np.array(brightness)
    assert (brightness[:, 0] < brightness[:, 1]).all() and (brightness[:, 1] < brightness[:, 2]).all()


def test_no_study_reads_a_cell_of_another_group():
    """With every other cell of the template overwritten, the studies of a group are the same."""
    template = load_template(find_template())
    scanner = _scanner()
    for group in ("training", "testing", "public", "foundation", "validation"):
        spoilt = np.full_like(template, 255)
        for cell in cells():
            if cell.group == group:
                block = np.s_[:, :, slice(*cell.y), slice(*cell.z)]
                spoilt[block] = template[block]
        one, other = (Anatomy(maps, group, slices=1) for maps in (template, spoilt))
        for seed in range(6):
            draw = partial(np.random.default_rng, seed)
            files = [list(map(as_nifti, make_slice(anatomy, scanner, draw()))) for anatomy in (one, other)]
            assert files[0] == files[1]


def _scanner():
    from fedhelp_med.data.scanners import draw_scanner

    return draw_scanner(np.random.default_rng(0), "hospital")


def test_no_two_studies_are_alike(demo):
    folder, _ = demo
    files = sorted([*folder.rglob("images/*.nii"), *folder.rglob("*.dcm")])
    assert len(files) == 2 * 9 + 14 + 4 + 20
    assert len({path.read_bytes() for path in files}) == len(files)


def test_same_seed_same_bytes_whatever_the_threads(demo, tmp_path):
    folder, _ = demo
    program = (
        "import sys, json, torch, pathlib; torch.set_num_threads(2)\n"
        "from fedhelp_med.data import make_tissue_sites\n"
        "make_tissue_sites(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), json.dumps(TINY)], check=True)
    assert contents(tmp_path) == contents(folder)


def test_a_lost_mask_is_made_again(demo, tmp_path):
    folder, _ = demo
    make_tissue_sites(tmp_path, **TINY)
    next((tmp_path / "sites/clinic-a/masks").iterdir()).unlink()
    make_tissue_sites(tmp_path, **TINY)
    assert contents(tmp_path) == contents(folder)


def test_counts_out_of_range(tmp_path):
    with pytest.raises(InputError, match="public: 1 is not valid"):
        make_tissue_sites(tmp_path, **{**TINY, "public": 1})
