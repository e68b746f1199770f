"""``LoadStudy`` in the place of MONAI's ``LoadImage``: the same bits, in the same order in memory."""

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage, LoadImaged
from PIL import Image

from fedhelp_med.transforms import LoadStudy, LoadStudyd, image_layout, image_shape

RANDOM = np.random.default_rng(0)


def picture(path, shape, mode=None):
    Image.fromarray(RANDOM.integers(0, 256, shape, np.uint8)).convert(mode).save(path)


def nifti(path, shape, dtype=np.int16, slope=None):
    affine = np.diag([1.5, -2, 3, 1.0])
    affine[:3, 3] = 7, -8, 9
    image = nibabel.Nifti1Image(RANDOM.integers(-500, 3000, shape).astype(dtype), affine)
    image.header.set_slope_inter(slope, 4.5 if slope else None)
    nibabel.save(image, path)


FILES = {
    "grey.png": lambda p: picture(p, (5, 7)),
    "colour.png": lambda p: picture(p, (5, 7, 3)),
    "alpha.png": lambda p: picture(p, (5, 7, 4)),
    "bits.png": lambda p: picture(p, (5, 7), "1"),
    "deep.png": lambda p: Image.fromarray(RANDOM.integers(0, 65536, (5, 7)).astype(np.uint16)).save(p),
    "grey.jpg": lambda p: picture(p, (16, 24)),
    "colour.bmp": lambda p: picture(p, (5, 7, 3)),
    "flat.nii.gz": lambda p: nifti(p, (5, 7)),
    "volume.nii.gz": lambda p: nifti(p, (5, 7, 4)),
    "float.nii": lambda p: nifti(p, (5, 7, 4), np.float64),
    "scaled.nii": lambda p: nifti(p, (5, 7, 4), np.uint8, slope=0.37),
    "channels.nii": lambda p: nifti(p, (5, 7, 4, 2)),
    "slice.nii": lambda p: nifti(p, (5, 7, 1)),
    "array.npy": lambda p: np.save(p, RANDOM.random((5, 7, 4))),
}


@pytest.fixture(scope="module")
def monai_loader():
    return LoadImage(image_only=True)


@pytest.mark.parametrize("name", FILES)
def test_the_same_bits_as_load_image(name, monai_loader, tmp_path):
    path = tmp_path / name
    FILES[name](path)
    ours, theirs = LoadStudy()(path), monai_loader(path)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())
    assert ours.stride() == theirs.stride()  # a sum over another order of memory is another number
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    same = (ours.meta["original_channel_dim"], theirs.meta["original_channel_dim"])
    assert same[0] == same[1] or np.isnan(same).all()


@pytest.mark.parametrize("shape", [(5, 7, 4, 1), (5, 7, 4, 1, 1)])
def test_empty_axes_at_the_end_are_no_channels(shape, tmp_path):
    nifti(tmp_path / "v.nii", shape)
    assert image_shape(tmp_path / "v.nii") == ((5, 7, 4), False)
    image = LoadStudy(ensure_channel_first=True)(tmp_path / "v.nii")
    assert image.shape == (1, 5, 7, 4) and np.isnan(LoadStudy()(tmp_path / "v.nii").meta["original_channel_dim"])


@pytest.mark.parametrize(("unit", "factor"), [("unknown", 1), ("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_the_affine_is_in_mm_whatever_the_unit_of_the_file(unit, factor, tmp_path):
    image = nibabel.Nifti1Image(np.zeros((5, 7, 4), np.uint8), np.diag([1.5, -2, 3, 1]) + np.eye(4, k=3))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii")
    expected = np.vstack([factor * image.affine[:3], image.affine[3:]])
    np.testing.assert_allclose(LoadStudy()(tmp_path / "v.nii").affine, expected)
    np.testing.assert_allclose(image_layout(tmp_path / "v.nii").affine, expected)


def test_the_same_items_as_load_imaged(tmp_path):
    for name in ("image.png", "mask.png"):
        picture(tmp_path / name, (5, 7))
    item = {"image": tmp_path / "image.png", "label": tmp_path / "mask.png", "patient": "p"}
    ours, theirs = (load(keys=["image", "label"], image_only=True)(item) for load in (LoadStudyd, LoadImaged))
    assert set(ours) == set(theirs)
    for key in ("image", "label"):
        assert torch.equal(ours[key].as_tensor(), theirs[key].as_tensor())
    assert LoadStudyd(keys=["image", "none"], allow_missing_keys=True)(item)["label"] == item["label"]
