import nibabel
import numpy as np
import pytest
import SimpleITK
from monai.transforms import EnsureChannelFirst, LoadImage
from PIL import Image
from pydicom.data import get_testdata_file

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import ImageDescription, describe_image


def picture(path, shape, mode=None):
    Image.fromarray(np.zeros(shape, np.uint8)).convert(mode).save(path)


def nifti(path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)


# file, how to make it, dimensions of the network, channel_dim, channels
SEEN = [
    ("grey.png", lambda p: picture(p, (5, 7)), 2, "no_channel", 1),
    ("grey.jpg", lambda p: picture(p, (5, 7)), 2, "no_channel", 1),
    ("colour.png", lambda p: picture(p, (5, 7, 3)), 2, -1, 3),
    ("colour.JPEG", lambda p: picture(p, (5, 7, 3)), 2, -1, 3),
    ("alpha.png", lambda p: picture(p, (5, 7, 4)), 2, -1, 4),
    ("palette.png", lambda p: picture(p, (5, 7), "P"), 2, "no_channel", 1),
    ("bits.png", lambda p: picture(p, (5, 7), "1"), 2, "no_channel", 1),
    ("flat.nii.gz", lambda p: nifti(p, (5, 7)), 2, "no_channel", 1),
    ("slab.nii.gz", lambda p: nifti(p, (5, 7, 4)), 2, -1, 4),
    ("slab.nii", lambda p: nifti(p, (5, 7, 4)), 2, -1, 4),
    ("slice.nii.gz", lambda p: nifti(p, (5, 7, 1)), 2, -1, 1),
    ("volume.nii.gz", lambda p: nifti(p, (5, 7, 4)), 3, "no_channel", 1),
    ("channels.nii.gz", lambda p: nifti(p, (5, 7, 4, 2)), 3, -1, 2),
    ("array.npy", lambda p: np.save(p, np.zeros((5, 7, 4))), 2, -1, 4),
]


@pytest.mark.parametrize(("name", "make", "dims", "channel_dim", "channels"), SEEN, ids=lambda v: str(v)[:20])
def test_agrees_with_load_image(name, make, dims, channel_dim, channels, tmp_path):
    make(tmp_path / name)
    description = describe_image(tmp_path / name, spatial_dims=dims)
    loaded = LoadImage(image_only=True)(tmp_path / name)
    assert description.shape == tuple(loaded.shape)
    assert (description.channel_dim, description.in_channels) == (channel_dim, channels)
    seen = EnsureChannelFirst(channel_dim=description.channel_dim)(loaded)
    assert tuple(seen.shape) == (description.in_channels, *description.spatial_shape)


def test_a_dicom_slice_agrees_with_load_image():
    path = get_testdata_file("CT_small.dcm", download=False)
    assert describe_image(path).shape == tuple(LoadImage(image_only=True)(path).shape)
    assert describe_image(path).in_channels == 1


def test_reads_nrrd(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 7, 5), np.int16)), tmp_path / "slab.nrrd")
    assert describe_image(tmp_path / "slab.nrrd") == ImageDescription((5, 7, 4), -1, 4, (5, 7))
    assert describe_image(tmp_path / "slab.nrrd", spatial_dims=3).channel_dim == "no_channel"


@pytest.mark.parametrize(
    ("name", "make", "dims"),
    [
        ("colour.png", lambda p: picture(p, (5, 7, 3)), 3),
        ("grey.png", lambda p: picture(p, (5, 7)), 3),
        ("flat.nii", lambda p: nifti(p, (5, 7)), 3),
        ("time.nii", lambda p: nifti(p, (5, 7, 4, 2)), 2),
    ],
)
def test_refuses_what_the_network_cannot_see(name, make, dims, tmp_path):
    make(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}.*{dims}-D network.*set spatial_dims"):
        describe_image(tmp_path / name, spatial_dims=dims)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.nii", "x.nii.gz", "x.npy", "x.nrrd", "x.dcm", "x"])
@pytest.mark.parametrize("content", [b"", b"not an image, just a text that goes on for a while" * 20])
def test_damaged_files_get_one_message(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: cannot be read as an image .*; replace the file") as raised:
        describe_image(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: this image does not exist; correct"):
        describe_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="no DICOM image in this folder"):
        describe_image(tmp_path)
