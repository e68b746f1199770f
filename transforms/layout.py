"""Channel-first layout for images of any kind, as MONAI's readers give them."""

from collections.abc import Mapping
from typing import Any

from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import EnsureChannelFirst, MapTransform, Transform

from fedhelp_med.common.errors import InputError


class ChannelFirst(Transform):  # type: ignore[misc]
    """An image with ``spatial_dims`` axes gets a channel; one with one axis more has its last axis moved first.

    So a grey image ``H, W`` becomes ``1, H, W``, a colour image ``H, W, 3`` becomes ``3, H, W`` and, for a 2-D network,
    a volume ``H, W, D`` becomes ``D, H, W``: its slices are the channels.

    Args:
        spatial_dims: of the network, 2 or 3.

    Raises:
        InputError: for an image with any other number of axes.
    """

    def __init__(self, spatial_dims: int) -> None:
        self.spatial_dims = spatial_dims

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return ``img`` as ``C, H, W[, D]``."""
        if img.ndim == self.spatial_dims:
            return EnsureChannelFirst(channel_dim="no_channel")(img)
        if img.ndim == self.spatial_dims + 1:
            return EnsureChannelFirst(channel_dim=-1)(img)
        raise InputError(
            f"image: its shape {tuple(img.shape)} has {img.ndim} axes, a {self.spatial_dims}-D network takes "
            f"{self.spatial_dims} or {self.spatial_dims + 1}; change spatial_dims or the image"
        )


class ChannelFirstd(MapTransform):  # type: ignore[misc]
    """Dictionary version of ``ChannelFirst``.

    Args:
        keys: of the images.
        spatial_dims: of the network, 2 or 3.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ChannelFirst(spatial_dims)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with its images channel-first."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform(item[key])
        return item
