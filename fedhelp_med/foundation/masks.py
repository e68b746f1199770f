"""Masks as the truth about a foundation model's maps."""

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.transforms import Resize
from torch import Tensor

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.labels_masks import read_mask


def mask_of_size(path: str | Path, size: Sequence[int], classes: int) -> Tensor:
    """Read a mask as class indices, int64 ``W, H[, D]``, resized by the nearest pixel's centre, as images are.

    Args:
        path: of the mask.
        size: ``W, H[, D]``, columns first as of images.
        classes: how many there are.

    Raises:
        InputError: for a mask that cannot be read, has several channels, or holds other values than the classes.
    """
    values = read_mask(Path(path))
    while values.ndim > len(size) and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != len(size) or values.min() < 0 or values.max() >= classes:
        raise InputError(f"{path} is no mask of {classes} classes: it needs one channel of class indices from 0")
    resized = Resize(spatial_size=tuple(size), mode="nearest-exact")(torch.from_numpy(values)[None].float())
    return torch.as_tensor(resized)[0].long()
