"""Scanners and lesions: what the simulation does to an image."""

import numpy as np
import pytest

from fedhelp_med.data.lesions import LESION_CONTRAST, LESION_COUNT, add_distractors, add_lesions
from fedhelp_med.data.scanners import KINDS, Scanner, acquire, contrast, draw_scanner, smooth

SHAPE = (8, 64, 64)
MM = (1.0, 1.0, 1.1)
PLAIN = Scanner(gamma=1, grey=0, white=0, blur=0, blur_slices=0, bias=0, noise=0, gain=1000)


def flat(value=1.0):
    return np.full(SHAPE, value, np.float32)


def everywhere():
    return np.ones(SHAPE, np.float32)


def test_smoothing_keeps_the_sum_and_spreads_as_a_gaussian():
    image = np.zeros((1, 41, 41), np.float32)
    image[0, 20, 20] = 1
    blurred = smooth(image, (0, 2, 0))
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    positions = np.arange(41) - 20
    assert (blurred[0, :, 20] * positions**2).sum() == pytest.approx(2**2, rel=0.1)
    assert np.count_nonzero(blurred[0, 20]) == 1  # nothing along the other axis


def test_smoothing_by_nothing_changes_nothing():
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    np.testing.assert_array_equal(smooth(image, (0, 0, 0)), image)


def test_contrast_raises_tissues_as_asked():
    maps = np.stack([flat(0.86), flat(0.0), flat(1.0)])
    scanner = Scanner(**{**vars(PLAIN), "white": -0.25, "gamma": 1.5})
    np.testing.assert_allclose(contrast(maps, scanner), 0.75, rtol=1e-5)


def test_a_perfect_scanner_only_scales():
    stored = acquire(flat(0.5), PLAIN, np.random.default_rng(0))
    assert stored.dtype == np.int16
    assert stored.min() == stored.max()
    assert 450 <= stored.max() <= 550  # gain varies by 10 %


def test_noise_is_rician():
    """In air the magnitude of noise sigma has the Rayleigh mean sigma * sqrt(pi / 2)."""
    noisy = Scanner(**{**vars(PLAIN), "noise": 0.1, "gain": 10_000})
    means = [acquire(flat(0), noisy, np.random.default_rng(seed)).mean() for seed in range(60)]
    assert np.mean(means) == pytest.approx(10_000 * 0.1 * np.sqrt(np.pi / 2), rel=0.05)


def test_values_never_overflow():
    bright = Scanner(**{**vars(PLAIN), "gain": 30_000})
    stored = acquire(flat(5), bright, np.random.default_rng(0))
    assert stored.min() == stored.max() == 32767


def test_shading_stays_within_its_strength():
    shaded = Scanner(**{**vars(PLAIN), "bias": 0.1, "gain": 10_000})
    stored = acquire(flat(), shaded, np.random.default_rng(3)).astype(float)
    assert stored.std() > 0
    assert stored.max() / stored.min() < np.exp(3 * (2 * 0.1 + 2 * 0.1))  # slope and bend on three axes


def test_clinics_have_the_poorer_scanners():
    clinic, hospital = (draw_scanner(np.random.default_rng(0), kind) for kind in ("clinic", "hospital"))
    assert clinic.noise > hospital.noise
    assert clinic.blur > hospital.blur
    assert set(KINDS) == {"clinic", "hospital"}


@pytest.mark.parametrize("seed", range(20))
def test_lesions_change_tissue_within_their_contrast(seed):
    tissue = everywhere()
    tissue[:, :, :32] = 0
    changed = add_lesions(flat(), tissue, MM, np.random.default_rng(seed))
    np.testing.assert_array_equal(changed[tissue == 0], 1)
    # darker or brighter, not both; overlapping lesions multiply
    strongest = np.abs(np.log(changed)).max()
    limits = np.abs(np.log1p([LESION_CONTRAST[0], -LESION_CONTRAST[1]]))
    assert limits[0] * 0.5 < strongest <= limits[1] * LESION_COUNT[1]
    assert changed.max() == pytest.approx(1, abs=1e-3) or changed.min() == pytest.approx(1, abs=1e-3)


def test_lesions_are_as_large_as_they_say_in_mm():
    """Twice finer voxels in plane: about four times as many voxels changed."""
    counts = []
    for spacing in (MM, (0.5, 0.5, 1.1)):
        changed = [add_lesions(flat(), everywhere(), spacing, np.random.default_rng(seed)) for seed in range(40)]
        counts.append(sum(np.count_nonzero(np.abs(image - 1) > 0.1) for image in changed))
    assert 2.5 < counts[1] / counts[0] < 4.5


def test_lesions_and_distractors_leave_their_input_alone():
    image = flat()
    add_lesions(image, everywhere(), MM, np.random.default_rng(0))
    add_distractors(image, everywhere(), MM, np.random.default_rng(0))
    assert (image == 1).all()


def test_distractors_are_thin():
    changed = [add_distractors(flat(), everywhere(), MM, np.random.default_rng(seed)) for seed in range(30)]
    assert any((image > 1.2).any() for image in changed)
    assert any((image < 0.8).any() for image in changed)
    shares = [np.mean(np.abs(image - 1) > 0.15) for image in changed]
    assert max(shares) < 0.01


def test_a_slab_without_tissue_still_gets_its_label():
    """No tissue to draw a place from: no error (nothing can be seen then, and `Anatomy` avoids such slabs)."""
    changed = add_lesions(flat(), np.zeros(SHAPE, np.float32), MM, np.random.default_rng(0))
    assert np.array_equal(changed, flat())  # a lesion fades with the tissue
