"""A picture for each study: the image with the contours of its mask, or with its class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fedhelp_med.common.files import replacing

COLOURS = ((0, 158, 115), (230, 159, 0), (86, 180, 233), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178))
"""By class, without the background; to be told apart by all readers (Okabe and Ito)."""
SIDE = 512  # pixels of the longer side, at least
CAPTION = 18  # pixels for a line of text below

Pixels = npt.NDArray[Any]


def draw(
    path: Path,
    image: Pixels,
    affine: npt.NDArray[np.float64] | None,
    caption: str,
    colour: bool = False,
    mask: Pixels | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Write a PNG: a slice in the radiologist's orientation, with a caption.

    Args:
        path: the file to write.
        image: ``W, H[, D][, 3]``.
        affine: index to RAS mm, which says how to turn the slice; None for a photograph, which stays as it is.
        caption: the line below.
        colour: whether the last axis of the image is of red, green and blue.
        mask: class indices ``W, H[, D]``; the slice with most of them is shown, without a mask the middle one.
        classes: names by index, for the legend; the first is the background.
    """
    if image.ndim - colour == 3:
        level = image.shape[2] // 2
        if mask is not None and mask.ndim == 3 and (mask > 0).any():
            level = int((mask > 0).sum((0, 1)).argmax())
        image = image[:, :, level]
        mask = mask[..., level] if mask is not None and mask.ndim == 3 else mask
    flips = () if affine is None else tuple(axis for axis in (0, 1) if _ascends(affine[:3, axis]))
    image, mask = np.flip(image, flips), None if mask is None else np.flip(mask, flips)
    factor = max(1, -(-SIDE // max(image.shape[:2])))
    grey = _displayed(image).swapaxes(0, 1).repeat(factor, 0).repeat(factor, 1)
    pixels = grey if colour else np.repeat(grey[..., None], 3, axis=2)
    if mask is not None:
        _outline(pixels, mask.T.repeat(factor, 0).repeat(factor, 1))
    legend = classes[1:] if mask is not None else ()
    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (width, height + CAPTION * (2 if legend else 1)))
    canvas.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.text((4, height + 3), caption, fill=(255, 255, 255))
    left = 4.0
    for index, label in enumerate(legend):
        pen.text((left, height + CAPTION + 3), label, fill=COLOURS[index % len(COLOURS)])
        left += pen.textlength(label) + 12
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG")


def _ascends(direction: npt.NDArray[np.float64]) -> bool:
    """Whether an axis runs to the right, the front or the top: on the screen it has to run the other way."""
    return bool(direction[np.abs(direction).argmax()] > 0)


def _displayed(image: Pixels) -> npt.NDArray[np.uint8]:
    """Grey values between the 1st and the 99th percentile; colours as they are."""
    values = np.nan_to_num(image.astype(np.float32))
    low, high = (0, 255) if image.ndim == 3 else np.percentile(values, (1, 99))
    scaled: npt.NDArray[np.uint8] = (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return scaled


def _outline(pixels: npt.NDArray[np.uint8], mask: Pixels) -> None:
    """Colour the pixels of each class that touch another class."""
    edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        differs = np.diff(mask, axis=axis) != 0
        near = [np.s_[:-1, :], np.s_[1:, :]] if axis == 0 else [np.s_[:, :-1], np.s_[:, 1:]]
        for part in near:
            edge[part] |= differs
    for value in np.unique(mask[edge]):
        if value > 0:
            pixels[edge & (mask == value)] = COLOURS[(int(value) - 1) % len(COLOURS)]
