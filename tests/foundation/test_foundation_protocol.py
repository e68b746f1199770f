"""Input specifications, preprocessing by hand, and the check of answers."""

import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import FoundationModel, InputSpec, ModelDescription, check_answer

counts = st.integers(1, 512)


@settings(deadline=None)
@given(
    channels=counts,
    size=st.lists(counts, min_size=2, max_size=3).map(tuple),
    low=st.floats(-1e6, 0),
    high=st.floats(1, 1e6),
)
def test_specification_survives_json(channels, size, low, high):
    spec = InputSpec(channels, size, (low, high))
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_one_specification_has_one_form():
    assert InputSpec(1, [8, 8], (0, 1)).to_json() == InputSpec(1, (8, 8)).to_json()
    assert hash(InputSpec(1, [8, 8], [0, 1])) == hash(InputSpec(1, (8, 8)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": [8, 8]}, "lacks 'channels'"),
        ({"channels": 1}, "lacks 'size'"),
        ({"channels": 1, "size": [8, 8], "chanels": 1}, "unknown key 'chanels'"),
        ({"channels": 0, "size": [8, 8]}, "channels is 0"),
        ({"channels": True, "size": [8, 8]}, "channels is True"),
        ({"channels": 1, "size": [8]}, r"size is \[8\]"),
        ({"channels": 1, "size": [8, 8.0]}, r"size is \[8, 8.0\]"),
        ({"channels": 1, "size": 8}, "two or three numbers"),
        ({"channels": 1, "size": [8, 8], "value_range": [1, 0]}, r"value_range is \(1.0, 0.0\)"),
        ({"channels": 1, "size": [8, 8], "value_range": ["dark", 1]}, "list of two numbers"),
        ({"channels": 1, "size": [8, 8], "value_range": [0, float("nan")]}, "value_range is"),
    ],
)
def test_wrong_specification_is_named(content, message):
    with pytest.raises(InputError, match=message):
        InputSpec.from_dict(content)


def save_slab(path, voxels):
    nibabel.save(nibabel.Nifti1Image(np.asarray(voxels, dtype=np.float32), np.eye(4)), path)
    return path


def test_slices_become_channels_and_intensities_the_range(tmp_path):
    ramp = np.arange(200, dtype=np.float32)  # its 0.5th and 99.5th percentiles: 0.995 and 198.005
    path = save_slab(tmp_path / "slab.nii.gz", ramp.reshape(10, 10, 2))
    pixels = InputSpec(2, (10, 10), (-1, 1)).preprocess(path)
    wanted = np.clip((ramp - 0.995) / (198.005 - 0.995) * 2 - 1, -1, 1).reshape(10, 10, 2).transpose(2, 0, 1)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, wanted, atol=1e-6)


def test_long_axes_are_averaged_and_short_ones_interpolated(tmp_path):
    columns = np.repeat([[0.0, 4.0, 8.0, 12.0]], 2, axis=0).T[..., None]  # 4 x 2 pixels, 1 slice; x grows
    path = save_slab(tmp_path / "slab.nii.gz", columns)
    pixels = InputSpec(1, (2, 4), (2, 10)).preprocess(path)  # means 2 and 10 are also the extremes
    np.testing.assert_allclose(pixels[0], [[2, 2, 2, 2], [10, 10, 10, 10]], atol=0.05)


def test_photographs_and_volumes(tmp_path):
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    save_slab(tmp_path / "volume.nii", np.random.default_rng(0).random((5, 6, 7)))
    assert InputSpec(3, (6, 4)).preprocess(tmp_path / "grey.png").shape == (3, 6, 4)
    assert InputSpec(1, (6, 4)).preprocess(tmp_path / "colour.png").shape == (1, 6, 4)
    assert InputSpec(1, (5, 8, 7)).preprocess(tmp_path / "volume.nii").shape == (1, 5, 8, 7)


def test_preprocessing_repeats_itself(tmp_path):
    path = save_slab(tmp_path / "slab.nii.gz", np.random.default_rng(0).random((13, 9, 5)))
    spec = InputSpec(3, (8, 12))
    assert spec.preprocess(path).tobytes() == spec.preprocess(str(path)).tobytes()


def test_an_even_image_is_dark(tmp_path):
    path = save_slab(tmp_path / "even.nii.gz", np.full((4, 4, 1), 7))
    np.testing.assert_array_equal(InputSpec(1, (4, 4), (-1, 1)).preprocess(path), np.full((1, 4, 4), -1))


def test_a_specification_like_an_image(tmp_path):
    path = save_slab(tmp_path / "slab.nii.gz", np.zeros((6, 5, 4)))
    assert InputSpec.like(path, spatial_dims=2) == InputSpec(4, (6, 5))
    assert InputSpec.like(path, spatial_dims=3) == InputSpec(1, (6, 5, 4))


def test_unusable_images_are_named(tmp_path):
    holes = np.ones((4, 4, 2))
    holes[0, 0, 0] = np.nan
    save_slab(tmp_path / "holes.nii.gz", holes)
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    spec = InputSpec(2, (4, 4))
    with pytest.raises(InputError, match=r"holes\.nii\.gz .* not finite"):
        spec.preprocess(tmp_path / "holes.nii.gz")
    for name in ("text.nii.gz", "absent.nii.gz"):
        with pytest.raises(InputError, match=name):
            spec.preprocess(tmp_path / name)


def description(kind="logits", classes=("a", "b", "c")):
    return ModelDescription("named", "1", classes, InputSpec(1, (4, 4)), kind)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 3)), "2 images of 4"),
        (np.zeros((4, 2)), r"2 channels, but has 3 classes \(a, b, c\)"),
        (np.zeros((4, 3, 4, 4)), "logits have 2 axes"),
        (np.zeros((4, 3), dtype=np.int64), "int64"),
        (np.array([[0, 0, np.nan]] * 2 + [[0, np.inf, 0]] + [[0, 0, 0]]), "3 of 4 images"),
        ("an error page", "<U13"),
    ],
)
def test_unusable_answers_are_refused(answer, message):
    with pytest.raises(FedHelpError, match=f"named 1 answered.*{message}"):
        check_answer(description(), 4, answer)


def test_answers_of_each_kind():
    assert check_answer(description(), 4, np.zeros((4, 3), dtype=np.float16)).dtype == np.float32
    assert check_answer(description("mask logits"), 2, np.zeros((2, 3, 4, 4))).shape == (2, 3, 4, 4)
    assert check_answer(description("embedding", classes=()), 2, np.zeros((2, 17))).shape == (2, 17)
    with pytest.raises(FedHelpError, match="mask logits have 4 axes"):
        check_answer(description("mask logits"), 2, np.zeros((2, 3)))


def test_description_survives_json():
    model = description("mask logits")
    assert ModelDescription.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert ModelDescription.of(model) == model


def test_the_protocol_is_structural():
    answers = SimpleNamespace(**vars(description()), predict=lambda batch: batch)
    assert isinstance(answers, FoundationModel)
    assert not isinstance(description(), FoundationModel)
