"""What has to be true of a study before a network learns from it or is measured on it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from fedhelp_med.transforms.errors import ImageError
from fedhelp_med.transforms.grid import APART, Affine, corner_distance, known_place


class CheckStudyd(MapTransform):  # type: ignore[misc]  # monai is untyped here
    """Refuse loaded images and masks that would be learned from, or counted as results, without a word.

    It stands right after the loader, before any change of the shape, and changes nothing.

    Args:
        keys: of the images, ``W, H[, D][, C]``.
        mask_keys: of the masks, which may be absent.
        classes: so many class indices a mask may hold; None: any.

    Raises:
        ImageError: a value that is not finite, a mask of another size than its image, at another place, or of other
            values.
    """

    def __init__(
        self, keys: KeysCollection, mask_keys: KeysCollection = ("label",), classes: int | None = None
    ) -> None:
        super().__init__(keys)
        self.mask_keys = ensure_tuple(mask_keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item as it came."""
        for key in self.key_iterator(data):
            image = torch.as_tensor(data[key])
            if bad := image.numel() - int(torch.isfinite(image).sum()):
                reason = f"{bad} values are not finite (NaN or infinity); replace them, or remove the image"
                raise ImageError(_name(data[key], key), reason)
            for mask in self.mask_keys:
                if mask in data:
                    name, shape = _name(data[mask], mask), tuple(image.shape)
                    colours = _meta(data[key]).get("original_channel_dim") == -1
                    check_mask(name, np.asarray(data[mask]), shape, self.classes, channels=colours)
                    check_place(name, shape, _place(data[key]), _place(data[mask]))
        return dict(data)


def check_mask(
    name: str,
    values: npt.NDArray[Any],
    image_shape: tuple[int, ...],
    classes: int | None = None,
    *,
    channels: bool = False,
) -> None:
    """Check that a mask has the size of its image, and holds class indices.

    Args:
        name: its file.
        values: ``W, H[, D]``.
        image_shape: ``W, H[, D][, C]``.
        classes: how many there are; None: any.
        channels: whether the image's last axis is known to be of channels.

    Raises:
        ImageError: saying what does not fit.
    """
    if not mask_fits(image_shape, values.shape, channels):
        reason = f"has the shape {values.shape}, its image {image_shape}; make a mask of the image's size"
        raise ImageError(name, reason)
    if classes is None:
        return
    found = np.unique(values)
    if not np.isin(found, np.arange(classes)).all():
        shown = ", ".join(f"{value:g}" for value in found[:6]) + (", ..." if len(found) > 6 else "")
        reason = f"holds the values {shown}; write class indices 0 to {classes - 1}, or declare more `labels`"
        raise ImageError(name, reason)


def check_place(name: str, shape: Sequence[int], image: Affine | None, mask: Affine | None) -> None:
    """Check that a mask lies where its image lies: by the corners of both, which costs nothing.

    Args:
        name: its file.
        shape: of the image.
        image: the image's affine; None where it has no place.
        mask: the mask's.

    Raises:
        ImageError: they lie apart, such as mirrored.
    """
    distance = corner_distance(shape, image, mask)
    if distance > APART:
        raise ImageError(name, place_fault(distance))


def place_fault(distance: float) -> str:
    """Say that a mask lies ``distance`` mm from its image, and what to do."""
    return (
        f"lies elsewhere than its image (another affine, corners {distance:.3g} mm apart), such as mirrored; "
        "`fedhelp data scan` turns the axes of such masks, else resample it to its image"
    )


def mask_fits(image: Sequence[int], mask: Sequence[int], channels: bool = False) -> bool:
    """Whether a mask has the image's shape; an axis of length 1 at its end does not count.

    Args:
        image: ``W, H[, D][, C]``.
        mask: ``W, H[, D]``.
        channels: whether the image's last axis is known to be of channels, which a mask has none of. Otherwise a mask
            may have it, or lack it: a volume's slices are the channels of a 2-D network.
    """
    own, space = list(mask), list(image)[:-1] if channels else list(image)
    for shape in (own, space):
        while len(shape) > 2 and shape[-1] == 1:
            shape.pop()
    return own == space or (not channels and len(space) > 2 and own == space[:-1])


def _name(image: Any, key: Hashable) -> str:
    return str(_meta(image).get("filename_or_obj", key))


def _meta(image: Any) -> Mapping[str, Any]:
    return getattr(image, "meta", None) or {}


def _place(image: Any) -> Affine | None:
    """Where a loaded image lies; None for one whose file does not say."""
    meta = _meta(image)
    return known_place(meta.get("affine")) if meta.get("located", True) else None
