"""What a network will see in an image file, read from the file's header."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from fedhelp_med.common.errors import InputError

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class ImageDescription:
    """An image as MONAI's ``LoadImage`` returns it.

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
        path: PNG, JPEG, BMP, NIfTI, NumPy, a DICOM file, or what else SimpleITK reads (NRRD, MetaImage); MONAI's own
            ``LoadImage`` needs pynrrd or itk for those.
        spatial_dims: 2 or 3.

    Raises:
        InputError: the file is missing or unreadable, or has too few or too many axes for the network.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder, not an image file; convert the series to one NIfTI file first")
    if not path.is_file():
        raise InputError(f"{path}: this image does not exist; correct the path in the datalist")
    shape, has_channels = _read_shape(path)
    spare = len(shape) - has_channels - spatial_dims  # axes that are neither of space nor marked as channels
    if spare == 0 and not has_channels:
        return ImageDescription(shape, "no_channel", 1, shape)
    if (spare == 0) or (spare == 1 and not has_channels):
        return ImageDescription(shape, -1, shape[-1], shape[:-1])
    kind = f"{len(shape)} axes {shape}" + (", the last one of colour" if has_channels else "")
    raise InputError(f"{path}: {kind} do not fit a {spatial_dims}-D network; set spatial_dims or convert the image")


def _read_shape(path: Path) -> tuple[tuple[int, ...], bool]:
    """The array's shape in MONAI's axis order, and whether the format says that the last axis is of channels."""
    name = path.name.lower()
    try:
        if name.endswith(PICTURES):
            with Image.open(path) as picture:
                bands = len(picture.getbands())
                return (*picture.size, bands) if bands > 1 else picture.size, bands > 1
        if name.endswith(NIFTI):
            return tuple(int(length) for length in nibabel.load(path).header.get_data_shape()), False
        if name.endswith(".npy"):
            return np.load(path, mmap_mode="r", allow_pickle=False).shape, False
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        components = reader.GetNumberOfComponents()
        size = tuple(int(length) for length in reader.GetSize())
        if reader.GetImageIOFromFileName(str(path)) == "GDCMImageIO" and size[2:] == (1,):
            size = size[:2]  # a single DICOM slice is a picture for MONAI's reader
        return (*size, components) if components > 1 else size, components > 1
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    except (ImageFileError, HeaderDataError) as error:
        reason = str(error)
    raise InputError(f"{path}: cannot be read as an image ({reason}); replace the file or take it off the datalist")
