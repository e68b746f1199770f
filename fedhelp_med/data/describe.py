"""What a network will see in an image file, read from the file's header."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedhelp_med.common.errors import InputError
from fedhelp_med.transforms import ImageError, image_shape


@dataclass(frozen=True)
class ImageDescription:
    """An image as ``LoadStudy`` and MONAI's ``LoadImage`` return it.

    Attributes:
        shape: of the array; pictures come as ``W, H[, C]`` (MONAI's reader swaps the axes).
        channel_dim: for ``EnsureChannelFirst``: -1, or ``no_channel``.
        in_channels: channels of a network on this image.
        spatial_shape: the shape without channels.
    """

    shape: tuple[int, ...]
    channel_dim: int | Literal["no_channel"]
    in_channels: int
    spatial_shape: tuple[int, ...]


def describe_image(path: Path, spatial_dims: int = 2) -> ImageDescription:
    """Describe an image for a 2-D or 3-D network, without reading its pixels where the format allows.

    A 2-D network sees the slices of a volume as channels; a 3-D network sees a volume of one channel.

    Args:
        path: PNG, JPEG, BMP, NIfTI, NRRD, NumPy, a DICOM file, or the folder of a DICOM series.
        spatial_dims: 2 or 3.

    Raises:
        InputError: the file is missing or unreadable, or has too few or too many axes for the network.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: this image does not exist; correct the path in the datalist")
    try:
        shape, has_channels = image_shape(path)
    except ImageError as error:
        raise InputError(
            f"{path}: cannot be read as an image ({error.reason}); replace the file or take it off the datalist"
        ) from None
    spare = len(shape) - has_channels - spatial_dims  # axes that are neither of space nor marked as channels
    if spare == 0 and not has_channels:
        return ImageDescription(shape, "no_channel", 1, shape)
    if (spare == 0) or (spare == 1 and not has_channels):
        return ImageDescription(shape, -1, shape[-1], shape[:-1])
    kind = f"{len(shape)} axes {shape}" + (", the last one of colour" if has_channels else "")
    raise InputError(f"{path}: {kind} do not fit a {spatial_dims}-D network; set spatial_dims or convert the image")
