"""ToChannels against values computed by hand, on every kind of array."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from monai.data import MetaTensor
from monai.transforms import Compose

from fedhelp_med.common.errors import InputError
from fedhelp_med.transforms import ToChannels, ToChannelsd

CONTAINERS = {"numpy": np.asarray, "torch": torch.as_tensor, "MetaTensor": MetaTensor}


def columns(*values: float) -> np.ndarray:
    """An image of 1 x 2 pixels whose channels have these values."""
    return np.repeat(np.asarray(values, dtype=np.float32)[:, None, None], 2, axis=2)


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize(
    ("given_channels", "channels", "wanted"),
    [
        ((1, 2, 6), 1, (3,)),  # mean
        ((7,), 3, (7, 7, 7)),  # repeated
        ((0, 1), 4, (0, 0.25, 0.75, 1)),  # centres at -.25, .25, .75, 1.25, the outer two clamped
        ((0, 1, 2, 3), 2, (0.5, 2.5)),  # centres at 0.5 and 2.5
        ((0, 3, 6), 2, (0.75, 5.25)),  # centres at 0.25 and 1.75
        ((4, 5), 2, (4, 5)),
    ],
)
def test_values_by_hand(container, given_channels, channels, wanted):
    image = container(columns(*given_channels))
    result = ToChannels(channels)(image)
    assert type(result) is type(image)
    np.testing.assert_allclose(np.asarray(result), columns(*wanted), rtol=0, atol=1e-6)


def test_equal_channels_are_the_same_object():
    image = np.zeros((3, 4, 4), dtype=np.int16)
    assert ToChannels(3)(image) is image


@pytest.mark.parametrize(
    ("have", "want", "dtype"), [(1, 3, np.int16), (3, 1, np.float32), (3, 2, np.float32), (2, 3, np.float64)]
)
def test_types_of_values(have, want, dtype):
    source = np.int16 if dtype is np.float32 else dtype
    assert ToChannels(want)(np.ones((have, 2, 2), dtype=source)).dtype == dtype


def test_metadata_is_kept():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(5, 4, 4), affine=affine, meta={"patient": "phantom"})
    result = ToChannels(3)(image)
    assert torch.equal(result.affine, affine)
    assert result.meta["patient"] == "phantom"


@settings(deadline=None, max_examples=50)
@given(
    image=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
    ),
    channels=st.integers(1, 7),
)
def test_each_pixel_by_itself_and_within_its_range(image, channels):
    result = ToChannels(channels)(image)
    assert result.shape == (channels, *image.shape[1:])
    assert np.all(result <= image.max(axis=0) + 1e-5)
    assert np.all(result >= image.min(axis=0) - 1e-5)
    corner = (slice(None), *(slice(0, 1),) * (image.ndim - 1))
    np.testing.assert_allclose(ToChannels(channels)(image[corner]), result[corner], atol=1e-5)


def test_dictionary_form_leaves_its_input_alone():
    item = {"image": np.ones((8, 4, 4), dtype=np.float32), "label": 1}
    result = Compose([ToChannelsd(keys="image", channels=3)])(item)
    assert result["image"].shape == (3, 4, 4)
    assert result["label"] == 1
    assert item["image"].shape == (8, 4, 4)


def test_dictionary_form_with_missing_keys():
    assert ToChannelsd(["image", "public"], 2, allow_missing_keys=True)({"image": columns(1)})["image"].shape[0] == 2
    with pytest.raises(KeyError, match="public"):
        ToChannelsd(["image", "public"], 2)({"image": columns(1)})


def test_wrong_use_is_named():
    with pytest.raises(InputError, match="channels is 0"):
        ToChannels(0)
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        ToChannels(2)(np.zeros(4))
    with pytest.raises(InputError, match=r"shape \(0, 4, 4\)"):
        ToChannels(2)(np.zeros((0, 4, 4)))
