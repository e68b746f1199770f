"""Simulated MR scanners: contrast, resolution, coil sensitivity, noise and scale of a T1-weighted image."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """What makes the images of one scanner look alike.

    Attributes:
        gamma: exponent of the contrast curve (1 = the template's own).
        grey: how much grey matter is brightened, in units of white matter.
        white: the same for white matter.
        blur: standard deviation of the point spread in plane, voxels.
        blur_slices: the same across slices.
        bias: strength of the coil's smooth shading (0.3 = about 30 % across the slab).
        noise: standard deviation of each channel of the Rician noise, in units of white matter.
        gain: intensity of white matter in the file.
    """

    gamma: float
    grey: float
    white: float
    blur: float
    blur_slices: float
    bias: float
    noise: float
    gain: float


# Ranges per kind of scanner: a clinic's older machine, and a hospital's newer one.
KINDS: dict[str, dict[str, tuple[float, float]]] = {
    "clinic": {
        "gamma": (0.75, 1.5), "grey": (-0.06, 0.06), "white": (-0.08, 0.04), "blur": (0.6, 0.9),
        "blur_slices": (0.5, 0.8), "bias": (0.3, 0.5), "noise": (0.07, 0.1), "gain": (200, 900),
    },
    "hospital": {
        "gamma": (0.75, 1.5), "grey": (-0.06, 0.06), "white": (-0.08, 0.04), "blur": (0.3, 0.5),
        "blur_slices": (0.25, 0.5), "bias": (0.1, 0.25), "noise": (0.03, 0.045), "gain": (400, 1800),
    },
}  # fmt: skip


def draw_scanner(rng: np.random.Generator, kind: str) -> Scanner:
    """Draw a scanner of a kind (``clinic`` or ``hospital``)."""
    return Scanner(**{name: float(rng.uniform(*limits)) for name, limits in KINDS[kind].items()})


def contrast(maps: Volume, scanner: Scanner) -> Volume:
    """Turn template maps ``3, D, H, W`` into the scanner's ideal image ``D, H, W`` (white matter about 1)."""
    t1, grey, white = maps
    image: Volume = (t1 / 0.86) ** scanner.gamma + scanner.grey * grey + scanner.white * white
    return image


def acquire(image: Volume, scanner: Scanner, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Scan an ideal image ``D, H, W``: point spread, shading, Rician noise and scale, as stored integers.

    Every person and every day differs a little: noise and gain vary by a few per cent.
    """
    today = replace(
        scanner,
        noise=scanner.noise * float(rng.uniform(0.85, 1.15)),
        gain=scanner.gain * float(rng.uniform(0.9, 1.1)),
    )
    image = smooth(image, (today.blur_slices, today.blur, today.blur))
    image = image * _shading(image.shape, today.bias, rng)
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(today.noise)
    magnitude = np.sqrt((image + real) ** 2 + imaginary**2)
    stored: npt.NDArray[np.int16] = np.clip(np.rint(magnitude * today.gain), 0, 32767).astype(np.int16)
    return stored


def smooth(image: Volume, sigmas: tuple[float, ...]) -> Volume:
    """Blur with a Gaussian along each axis (sigma in voxels; the border is repeated).

    Plain sums of shifted copies: the same bits whatever the number of threads.
    """
    for axis, sigma in enumerate(sigmas):
        radius = int(np.ceil(2.5 * sigma))
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.moveaxis(np.pad(image, padding, mode="edge"), axis, 0)
        length = image.shape[axis]
        total = np.zeros((length, *padded.shape[1:]), np.float32)
        for offset, weight in enumerate(weights):
            total += weight * padded[offset : offset + length]
        image = np.moveaxis(total, 0, axis)
    return image


def _shading(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> Volume:
    """A coil's sensitivity: the exponential of a random quadratic in each direction, about 1 on average."""
    exponent = np.zeros((1,) * len(shape), np.float32)
    for axis, length in enumerate(shape):
        position = np.linspace(-1, 1, length, dtype=np.float32)
        slope, bend = rng.uniform(-strength, strength, size=2).astype(np.float32)
        curve = slope * position + bend * (position**2 - 1 / 3)
        exponent = exponent + curve.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.exp(exponent)
