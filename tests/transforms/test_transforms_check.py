import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fedhelp_med.transforms import CheckStudyd, ImageError


def loaded(array, name, affine=None, **meta):
    return MetaTensor(torch.as_tensor(np.asarray(array)), affine=affine, meta={"filename_or_obj": name, **meta})


def test_what_is_sound_comes_back_as_it_was():
    item = {
        "image": loaded(np.zeros((4, 3, 2), np.float32), "i.nii"),
        "label": loaded(np.ones((4, 3, 2)), "m.nii"),
        "x": 1,
    }
    found = CheckStudyd("image", classes=2)(item)
    assert found.keys() == item.keys() and all(found[key] is item[key] for key in item)
    without = {"image": item["image"]}
    assert CheckStudyd("image")(without).keys() == without.keys()
    indices = {"image": item["image"], "label": 3}
    assert CheckStudyd("image", mask_keys=())(indices)["label"] == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_with_a_value_that_is_not_finite_is_named(value):
    array = np.zeros((4, 3), np.float32)
    array[1, 2] = value
    with pytest.raises(ImageError, match=r"^i\.nii: 1 values are not finite \(NaN or infinity\); replace them"):
        CheckStudyd("image")({"image": loaded(array, "i.nii")})


@pytest.mark.parametrize(
    ("image", "mask", "fits"),
    [
        ((4, 3), (4, 3), True),
        ((4, 3, 3), (4, 3), True),  # a picture in colour
        ((4, 3, 2), (4, 3, 2, 1), True),
        ((4, 3, 2, 2), (4, 3, 2), True),  # two modalities
        ((4, 3), (3, 4), False),
        ((4, 3, 2), (4, 3, 3), False),
    ],
)
def test_a_mask_has_the_size_of_its_image(image, mask, fits):
    item = {"image": loaded(np.zeros(image, np.float32), "i"), "label": loaded(np.zeros(mask), "m")}
    if fits:
        CheckStudyd("image", classes=1)(item)
        return
    with pytest.raises(ImageError, match=r"^m: has the shape .*, its image .*; make a mask of the image's size"):
        CheckStudyd("image")(item)


def test_a_mask_has_no_colours():
    item = {
        "image": loaded(np.zeros((4, 3, 3), np.float32), "i", original_channel_dim=-1),
        "label": loaded(np.zeros((4, 3, 3)), "m"),
    }
    with pytest.raises(ImageError, match="make a mask of the image's size"):
        CheckStudyd("image")(item)


FLIPPED = torch.diag(torch.tensor([1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
PLACED = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("image", "mask", "fits"),
    [
        ({"affine": PLACED}, {"affine": PLACED + 1e-4}, True),
        ({"affine": PLACED}, {"affine": FLIPPED}, False),
        ({"affine": PLACED}, {"affine": torch.eye(4, dtype=torch.float64)}, True),  # a picture has no place
        ({"affine": torch.eye(4, dtype=torch.float64)}, {"affine": FLIPPED}, True),
        ({"affine": PLACED, "located": False}, {"affine": FLIPPED}, True),
    ],
)
def test_a_mask_lies_where_its_image_lies(image, mask, fits):
    item = {
        "image": loaded(np.zeros((4, 3, 2), np.float32), "i", **image),
        "label": loaded(np.zeros((4, 3, 2)), "m", **mask),
    }
    if fits:
        CheckStudyd("image", classes=1)(item)
        return
    with pytest.raises(ImageError, match=r"^m: lies elsewhere than its image \(another affine, corners 4 mm apart\)"):
        CheckStudyd("image")(item)


@pytest.mark.parametrize("value", [3, 0.5, -1, 255])
def test_a_mask_holds_class_indices(value):
    item = {"image": loaded(np.zeros((2, 2), np.float32), "i"), "label": loaded([[0, 1], [2, value]], "m")}
    with pytest.raises(ImageError, match=r"^m: holds the values .*; write class indices 0 to 2"):
        CheckStudyd("image", classes=3)(item)
    if value != 0.5:
        CheckStudyd("image")(item)
