import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose

from fedhelp_med.common.errors import InputError
from fedhelp_med.transforms import (
    CT_WINDOWS,
    CTWindow,
    CTWindowd,
    MRZScore,
    MRZScored,
    Radiograph,
    Radiographd,
)


def test_a_window_by_name_and_by_numbers():
    image = torch.tensor([[-1350.0, -600.0, 150.0, 900.0]])
    assert CTWindow("lung")(image).tolist() == [[0.0, 0.5, 1.0, 1.0]]
    assert CTWindow((0, 100))(torch.tensor([[-50.0, 25.0, 50.0]])).tolist() == [[0.0, 0.75, 1.0]]


@given(st.sampled_from(sorted(CT_WINDOWS)), st.floats(-1024, 3071))
@settings(deadline=None)
def test_a_window_stays_in_its_range_and_comes_back(name, value):
    window = CTWindow(name)
    shown = window(MetaTensor(torch.tensor([[value]])))
    assert 0 <= float(shown) <= 1
    inside = min(max(value, window.low), window.low + window.width)
    assert float(window.inverse(shown)) == pytest.approx(inside, abs=1e-2)


def test_z_score_of_the_foreground():
    image = torch.zeros(1, 4, 4)
    image[0, :2] = torch.tensor([10.0, 12.0, 14.0, 16.0])  # above the mean of 6.5
    result = MRZScore()(image)
    foreground = np.array([10, 12, 14, 16])
    np.testing.assert_allclose(result[0, 0], (foreground - 13) / foreground.std(), rtol=1e-6)
    assert torch.equal(MRZScore()(torch.full((1, 2, 2), 7.0)), torch.zeros(1, 2, 2))


def test_a_radiograph_between_its_percentiles():
    image = torch.arange(101.0).reshape(1, 101)
    image[0, 100] = 1e6  # metal
    result = Radiograph()(image)
    assert (float(result[0, 1]), float(result[0, 99]), float(result[0, 100])) == (0.0, 1.0, 1.0)
    assert float(result[0, 50]) == pytest.approx(0.5)


@pytest.mark.parametrize("transform", [MRZScored("image"), Radiographd("image", 0, 100), CTWindowd("image", (0, 4000))])
def test_dictionaries_invert_as_monai_does(transform):
    image = MetaTensor(torch.rand(1, 5, 6) * 1000, affine=torch.eye(4))
    pipeline = Compose([transform])
    item = pipeline({"image": image, "label": 1})
    assert item["label"] == 1
    back = pipeline.inverse(item)["image"]
    torch.testing.assert_close(back.as_tensor(), image.as_tensor(), atol=1e-3, rtol=1e-5)
    assert back.applied_operations == []


def test_wrong_settings():
    with pytest.raises(InputError, match="window: 'tissue' is unknown; choose brain"):
        CTWindow("tissue")
    with pytest.raises(InputError, match="a width of 0"):
        CTWindow((50, 0))
    with pytest.raises(InputError, match="percentiles: 99 to 1"):
        Radiograph(99, 1)
    with pytest.raises(InputError, match="has no metadata"):
        CTWindow().inverse(torch.zeros(1, 2))
