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


class CheckStudyd(MapTransform):  # type: ignore[misc]  # monai is untyped here
    """Refuse loaded images and masks that would be learned from, or counted as results, without a word.

    It stands right after the loader, before any change of the shape, and changes nothing.

    Args:
        keys: of the images, ``W, H[, D][, C]``.
        mask_keys: of the masks, which may be absent.
        classes: so many class indices a mask may hold; None: any.

    Raises:
        ImageError: a value that is not finite, a mask of another size than its image, or of other values.
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
                    values = np.asarray(data[mask])
                    check_mask(_name(data[mask], mask), values, tuple(image.shape), self.classes)
        return dict(data)


def check_mask(name: str, values: npt.NDArray[Any], image_shape: tuple[int, ...], classes: int | None = None) -> None:
    """Check that a mask has the size of its image, and holds class indices.

    Args:
        name: its file.
        values: ``W, H[, D]``.
        image_shape: ``W, H[, D][, C]``.
        classes: how many there are; None: any.

    Raises:
        ImageError: saying what does not fit.
    """
    if not mask_fits(image_shape, values.shape):
        reason = f"has the shape {values.shape}, its image {image_shape}; make a mask of the image's size"
        raise ImageError(name, reason)
    if classes is None:
        return
    found = np.unique(values)
    if not np.isin(found, np.arange(classes)).all():
        shown = ", ".join(f"{value:g}" for value in found[:6]) + (", ..." if len(found) > 6 else "")
        reason = f"holds the values {shown}; write class indices 0 to {classes - 1}, or declare more `labels`"
        raise ImageError(name, reason)


def mask_fits(image: Sequence[int], mask: Sequence[int]) -> bool:
    """Whether a mask has the image's shape; an axis of length 1 at its end, and the image's channels, do not count."""
    own, space = list(mask), list(image)
    for shape in (own, space):
        while len(shape) > 2 and shape[-1] == 1:
            shape.pop()
    return own in (space, space[:-1] if len(space) > 2 else space)


def _name(image: Any, key: Hashable) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", key))
