"""Small pictures of images, with what a network saw in them."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

SIDE = 160  # pixels of the longer side of a view
GAP = 4
SHADES = 128
WARM = np.array([255, 120, 0])
MARKS = np.array(  # by class; the last is for differences. Okabe and Ito's palette, told apart by the colour-blind
    [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [204, 121, 167], [255, 40, 90]]
)
MARK_NAMES = ("orange", "light blue", "green", "yellow", "pink")


def plane(image: Tensor, channel: int | None = None, depth: int | None = None) -> Pixels:
    """Return one slice as ``rows, columns, 3``, from its 1st to its 99th percentile.

    Args:
        image: ``C, H, W[, D]``; 3 channels are colours.
        channel: which one; by default the middle one, or all three.
        depth: the index along D.
    """
    values = image.numpy()
    if depth is not None:
        values = values[..., depth]
    colours = channel is None and len(values) == 3
    shown = values if colours else np.repeat(values[len(values) // 2 if channel is None else channel][None], 3, 0)
    low, high = np.percentile(shown, [1, 99])
    grey = np.clip((shown - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(grey.transpose(2, 1, 0))


def heated(picture: Pixels, heat: NDArray[Any]) -> Pixels:
    """Return a picture that is warmer where ``heat`` (``H, W``, at least 0) is high."""
    strength = (heat / heat.max() if heat.max() > 0 else heat).T[..., None]
    return _blended(picture, WARM, 0.65 * strength)


def marked(picture: Pixels, mask: NDArray[np.int64]) -> Pixels:
    """Return a picture in the colours of a mask's classes (``H, W``; -1: a difference)."""
    index = np.where(mask > 0, (mask - 1) % (len(MARKS) - 2) + 1, mask).T
    return _blended(picture, MARKS[index], 0.55 * (index != 0)[..., None])


def _blended(picture: Pixels, colour: NDArray[np.int64], strength: NDArray[Any]) -> Pixels:
    blended: Pixels = (picture * (1 - strength) + colour * strength).astype(np.uint8)
    return blended


def tiled(views: Sequence[Pixels], columns: int) -> tuple[str, int, int]:
    """Return views of one size beside and below each other: PNG in base64, width, height."""
    rows, across = views[0].shape[:2]
    scale = SIDE / max(rows, across)
    width, height = max(1, round(across * scale)), max(1, round(rows * scale))
    lines = -(-len(views) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, lines * (height + GAP) - GAP), "white")
    for place, view in enumerate(views):
        corner = (place % columns) * (width + GAP), (place // columns) * (height + GAP)
        sheet.paste(Image.fromarray(view).resize((width, height), Image.Resampling.BICUBIC), corner)
    content = io.BytesIO()
    sheet.quantize(SHADES).save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode(), *sheet.size
