"""How good a foundation model is, against values computed by hand, and a temperature that is known."""

import math

import nibabel
import numpy as np
import pytest
import torch
from dicom_samples import write_radiograph
from foundation_phantoms import SPEC, CountingNetwork, make_model, write_public
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_sites import write_mask_site
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation import InputSpec, Ledger, LocalFoundationModel, PublicKnowledge, acquire, cover
from fedhelp_med.foundation.masks import mask_of_size
from fedhelp_med.foundation.quality import calibration_error, class_quality, fit_temperature, mask_quality


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


def odds(*probabilities: float) -> torch.Tensor:
    """Logits of two classes by the probability of the second."""
    return torch.tensor([[0.0, math.log(p / (1 - p))] for p in probabilities], dtype=torch.float64)


def test_a_classifier_by_hand():
    logits, labels = odds(0.9, 0.8, 0.3, 0.6, 0.2), torch.tensor([1, 1, 1, 0, 0])
    quality = class_quality(logits, labels)
    assert (quality.images, quality.dice) == (5, None)
    assert quality.accuracy == pytest.approx(3 / 5)
    assert quality.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert quality.score == pytest.approx(2 * (2 / 3 + 1 / 2) / 2 - 1)
    # Pairs (positive, negative): .9 and .8 above both, .3 above .2 only; the same for either class.
    assert quality.auc == pytest.approx(5 / 6)
    likelihood = [0.9, 0.8, 0.3, 0.4, 0.8]
    assert quality.nll == pytest.approx(-sum(map(math.log, likelihood)) / 5)
    # Confidences .9, .8 (twice), .7, .6 lie in bins of their own; right, right twice, wrong, wrong.
    assert quality.error == pytest.approx((0.1 + 2 * 0.2 + 0.7 + 0.6) / 5)


def test_one_channel_counts_as_two_classes():
    two = class_quality(odds(0.9, 0.4, 0.2), torch.tensor([1, 1, 0]))
    assert class_quality(odds(0.9, 0.4, 0.2)[:, 1:], torch.tensor([1, 1, 0])) == two


def test_classes_that_do_not_occur():
    quality = class_quality(torch.eye(3)[[0, 1]] * 4, torch.tensor([0, 1]))
    assert quality.auc is None
    assert quality.balanced_accuracy == 1 and quality.score == pytest.approx(1)


def test_masks_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2]])
    found = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 2]])
    blank = torch.zeros(2, 4, dtype=torch.int64)
    pairs = [
        (one_hot(indices, 4).movedim(-1, 0).float() * 9, labels) for indices, labels in ((found, truth), (blank, blank))
    ]
    quality = mask_quality(iter(pairs))
    # Class 1: 2 * 2 / (2 + 3); class 2: 2 * 1 / (2 + 1); class 3 and the blank image are undefined.
    assert quality.dice == quality.score == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert quality.accuracy == pytest.approx(14 / 16)
    assert (quality.images, quality.balanced_accuracy, quality.auc) == (2, None, None)


def test_masks_without_any_class():
    blank = torch.zeros(3, 3, dtype=torch.int64)
    quality = mask_quality([(one_hot(blank, 2).movedim(-1, 0).float() * 9, blank)])
    assert quality.dice is None and quality.score == 0


@settings(deadline=None, max_examples=20)
@given(st.floats(0.3, 4), st.integers(2, 5), st.integers(0, 1000))
def test_the_temperature_is_found_again(temperature, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20_000, classes, generator=generator, dtype=torch.float64) * 1.5
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_no_other_temperature_is_likelier(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (60,), generator=generator)
    best = cross_entropy(logits / fit_temperature(logits, labels), labels)
    grid = torch.logspace(-1, 1, 41, dtype=torch.float64)
    assert all(best <= cross_entropy(logits / float(other), labels) + 1e-9 for other in grid)


def test_temperatures_of_the_perfect_and_of_the_perverse():
    logits, labels = odds(0.9, 0.1), torch.tensor([1, 0])
    assert fit_temperature(logits, labels) == pytest.approx(0.1)
    assert fit_temperature(logits, 1 - labels) == pytest.approx(10)


def test_the_calibration_error_of_bins_that_cancel():
    # One bin with confidences .9 and .88, one right and one wrong: |1/2 - .89|, not the mean of both gaps.
    assert calibration_error(odds(0.9, 0.88), torch.tensor([1, 0])) == pytest.approx(0.39)
    assert calibration_error(odds(0.999999), torch.tensor([1])) < 1e-5


# Against a ledger


class Oracle(CountingNetwork):
    """Knows the label of every phantom by its first pixel: class 1 above the median. ``sure`` scales its logits."""

    def __init__(self, sure: float = 3.0) -> None:
        super().__init__()
        self.sure = sure

    def forward(self, images):
        value = images[:, 0, 0, 0]
        return torch.stack([-value, value - 1.0], 1) * self.sure


def labelled(tmp_path, count=24, seed=0):
    """A public set of phantoms whose labels follow the oracle three times of four."""
    write_public(tmp_path, range(count))
    model, random = make_model(Oracle()), np.random.default_rng(seed)
    labels = []
    for index in range(count):
        pixels = model.input.preprocess(tmp_path / f"images/training-{index:03d}.nii.gz")
        label = int(model.predict(pixels[None])[0].argmax())
        labels.append(label if random.random() < 0.75 else 1 - label)
    return write_public(tmp_path, range(count), labels=labels), model


def test_coverage_and_quality_of_a_public_set(tmp_path, path):
    datalist, model = labelled(tmp_path)
    acquire(datalist, model, path)
    found = cover(datalist, path)
    assert (found.model, found.images, found.answered, found.reason) == ("counting 1", 24, 24, "")
    assert found.quality is not None and 0.5 < found.quality.accuracy < 1
    more = write_public(tmp_path, range(30), labels=[0] * 30)
    found = cover(more, path)
    assert (found.images, found.answered, found.quality.images) == (30, 24, 24)


def test_why_quality_is_not_known(tmp_path, path):
    acquire(write_public(tmp_path), make_model(), path)
    assert "has no labels" in cover(tmp_path / "datalist.json", path).reason
    assert "has the classes a, b" in cover(write_public(tmp_path, labels=[0] * 6, classes="ab"), path).reason
    other = cover(write_public(tmp_path / "other", [77], labels=[0]), path)
    assert (other.answered, other.quality, other.reason) == (0, None, "no image has an answer")


def test_knowledge_is_divided_by_the_temperature_and_only_if_wanted(tmp_path, path):
    datalist, model = labelled(tmp_path)
    model.module.sure = 20.0
    acquire(datalist, model, path)
    plain, calibrated = PublicKnowledge(datalist, path), PublicKnowledge(datalist, path, calibrate=True)
    assert plain.quality is None and plain.trust == calibrated.trust == 1
    temperature = calibrated.quality.temperature
    assert temperature > 1.2  # three of four labels, but surer than that
    for raw, soft in zip(plain.items, calibrated.items, strict=True):
        assert soft["knowledge"].dtype == np.float32
        np.testing.assert_allclose(soft["knowledge"] * temperature, raw["knowledge"], rtol=1e-6)
        assert soft["label"] == raw["label"]


def test_trust_is_the_quality(tmp_path, path):
    datalist, model = labelled(tmp_path)
    acquire(datalist, model, path)
    knowledge = PublicKnowledge(datalist, path, follow_quality=True)
    assert 0 < knowledge.trust < 1 and knowledge.trust == knowledge.quality.score
    plain = PublicKnowledge(datalist, path)
    for one, other in zip(plain.items, knowledge.items, strict=True):
        np.testing.assert_array_equal(one["knowledge"], other["knowledge"])


def test_a_model_worse_than_chance_is_not_trusted_at_all(tmp_path, path):
    datalist, model = labelled(tmp_path)
    model.module.sure = -3.0
    acquire(datalist, model, path)
    knowledge = PublicKnowledge(datalist, path, follow_quality=True)
    assert knowledge.quality.score < 0 and knowledge.trust == 0


@pytest.mark.parametrize("wanted", ["calibrate", "follow_quality"])
def test_quality_without_labels_is_refused(tmp_path, path, wanted):
    datalist = write_public(tmp_path)
    acquire(datalist, make_model(), path)
    with pytest.raises(InputError, match="has no labels, so how good counting 1 is there cannot be told"):
        PublicKnowledge(datalist, path, **{wanted: True})


def test_masks_of_a_public_set(tmp_path, path):
    folder = tmp_path / "public"
    datalist = write_mask_site(folder, training=3, validation=0, testing=0)
    datalist.write_text(datalist.read_text().replace('"name"', '"public": true, "name"', 1))

    class Blocks(nn.Module):
        def forward(self, images):
            return torch.cat([-8 * (images - level).abs() for level in (0.0, 0.5, 1.0)], 1)

    classes = ("background", "grey block", "bright block")
    model = LocalFoundationModel(
        Blocks(), name="blocks", version="1", classes=classes, input=InputSpec(1, (16, 16)), kind="mask logits"
    )
    acquire(datalist, model, path)
    quality = cover(datalist, path).quality
    assert quality.dice > 0.95 and quality.minimum == 0.5
    knowledge = PublicKnowledge(datalist, path, calibrate=True)
    assert knowledge.kind == "mask logits" and knowledge.quality == quality
    mask = np.asarray(nibabel.load(knowledge.items[0]["label"]).dataobj)
    assert (knowledge.items[0]["knowledge"].argmax(0) == mask).mean() > 0.95


def test_a_mask_keeps_its_classes_when_it_is_resized(tmp_path):
    mask = np.zeros((8, 6), np.uint8)
    mask[4:, 3:] = 2
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii")
    small = mask_of_size(tmp_path / "mask.nii", (4, 3), classes=3)
    np.testing.assert_array_equal(small, [[0, 0, 0], [0, 0, 0], [0, 2, 2], [0, 2, 2]])
    with pytest.raises(InputError, match="is no mask of 2 classes"):
        mask_of_size(tmp_path / "mask.nii", (4, 3), classes=2)


def test_a_masks_palette_is_not_its_content(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 1], [2, 0, 0]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 250, 80, 80, 80, 250, 80])
    picture.save(tmp_path / "mask.png")
    found = mask_of_size(tmp_path / "mask.png", (3, 2), classes=3)
    assert found.tolist() == [[0, 2], [1, 0], [1, 0]]  # columns first


def test_a_masks_stored_values_are_not_rescaled(tmp_path):
    # As some writers do: class indices under a rescale slope that is meant for display.
    def rescale(number, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = 100, -7

    write_radiograph(tmp_path / "mask.dcm", np.array([[0, 1], [2, 1]], np.uint16), edit=rescale)
    assert sorted(mask_of_size(tmp_path / "mask.dcm", (2, 2), classes=3).flatten().tolist()) == [0, 1, 1, 2]


def test_an_embedding_has_a_size_and_no_classes(tmp_path, path):
    datalist = write_public(tmp_path, labels=[0, 1] * 3)
    features = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    model = LocalFoundationModel(features, name="features", version="1", classes=(), input=SPEC, kind="embedding")
    acquire(datalist, model, path)
    knowledge = PublicKnowledge(datalist, path)
    assert (knowledge.kind, knowledge.channels, knowledge.classes, knowledge.spatial_size) == ("embedding", 5, (), None)
    assert all(item["knowledge"].shape == (5,) and "label" in item for item in knowledge.items)
    assert "no classes to compare with labels" in cover(datalist, path).reason
    with Ledger(path, readonly=True) as ledger:
        assert ledger.models()[0].kind == "embedding"


def test_masks_are_resized_about_the_pixels_centres_as_images_are(tmp_path):
    columns = np.repeat(np.array([0, 0, 0, 1, 1, 1, 1, 1], np.uint8)[:, None], 8, 1)
    nibabel.save(nibabel.Nifti1Image(columns, np.eye(4)), tmp_path / "mask.nii")
    small = mask_of_size(tmp_path / "mask.nii", (2, 2), classes=2)
    # the centres are 2 and 6
    assert small[:, 0].tolist() == [0, 1]
    third = mask_of_size(tmp_path / "mask.nii", (3, 8), classes=2)
    assert third[:, 0].tolist() == [0, 1, 1]  # by the first pixels 0, 0, 1
