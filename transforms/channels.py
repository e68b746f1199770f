"""Bring an image to the number of channels that a network takes."""

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, cast

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch.nn.functional import interpolate

from fedhelp_med.common.errors import InputError


class ToChannels(Transform):  # type: ignore[misc]  # monai is untyped here
    """Give a channel-first image ``channels`` channels.

    As many as wanted: unchanged. Many to one: their mean. One to many: repeated. Any other number, as with the
    slices of a slab: linear resampling along the channel axis, in which channels are cells of equal width, as
    pixels are in :class:`monai.transforms.Resize`. Integers become float32 where values are computed.

    Args:
        channels: the number wanted, at least 1.

    Raises:
        InputError: for a number of channels below 1, or an image without a channel and a spatial axis.

    Example:
        >>> import numpy as np
        >>> ToChannels(3)(np.zeros((1, 28, 28), dtype=np.float32)).shape
        (3, 28, 28)
    """

    backend: ClassVar[list[TransformBackends]] = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise InputError(f"channels is {channels}: give the number of channels that the network takes, 1 or more")
        self.channels = channels

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return ``image`` (`C, H, W[, D]`) as `channels, H, W[, D]`, of the same type, with its metadata."""
        if image.ndim < 2 or image.shape[0] < 1:
            raise InputError(
                f"an image of shape {tuple(image.shape)} has no channel axis before its spatial axes: "
                "make it channel-first (EnsureChannelFirst) before ToChannels"
            )
        if image.shape[0] == self.channels:
            return image
        values = convert_to_tensor(image, track_meta=False)
        if image.shape[0] == 1:
            result = values.repeat(self.channels, *(1,) * (values.ndim - 1))
        else:
            values = values if values.is_floating_point() else values.float()
            result = values.mean(dim=0, keepdim=True) if self.channels == 1 else self._resample(values)
        return cast(NdarrayOrTensor, convert_to_dst_type(result, image, dtype=result.dtype)[0])

    def _resample(self, values: torch.Tensor) -> torch.Tensor:
        lines = values.reshape(values.shape[0], -1).T[None]  # 1, positions, C: each position is a line of channels
        lines = interpolate(lines, size=self.channels, mode="linear", align_corners=False)
        return lines[0].T.reshape(self.channels, *values.shape[1:])


class ToChannelsd(MapTransform):  # type: ignore[misc]  # monai is untyped here
    """Dictionary form of :class:`ToChannels`.

    Args:
        keys: the keys of the images.
        channels: the number of channels wanted, at least 1.
        allow_missing_keys: leave out keys that an item does not have.
    """

    backend: ClassVar[list[TransformBackends]] = ToChannels.backend

    def __init__(self, keys: KeysCollection, channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.converter = ToChannels(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` in which each image has the wanted number of channels."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.converter(result[key])
        return result
