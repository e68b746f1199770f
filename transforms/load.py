"""Load an image of any kind that a hospital has, by content, with its geometry."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform, Transform
from monai.utils import ensure_tuple
from numpy.typing import DTypeLike

from fedhelp_med.transforms.dicom_pixels import STORED, ValueRules
from fedhelp_med.transforms.dicom_series import ImageData, open_dicom, read_dicom
from fedhelp_med.transforms.errors import ImageError
from fedhelp_med.transforms.formats import (
    itk_affine,
    nifti_affine,
    nifti_shape,
    open_nifti,
    open_nrrd,
    picture_shape,
    read_nifti,
    read_nrrd,
    read_numpy,
    read_picture,
)
from fedhelp_med.transforms.grid import known_place
from fedhelp_med.transforms.sniff import Kind, describe_unknown, kind_of

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Layout:
    """What an image's header says of its array.

    Attributes:
        shape: ``W, H[, D][, C]``.
        channels: whether the last axis is of channels.
        affine: ``4, 4``, index to RAS mm; None where the file does not say where it lies.
    """

    shape: tuple[int, ...]
    channels: bool
    affine: npt.NDArray[np.float64] | None

    @property
    def space(self) -> tuple[int, ...]:
        """The shape without channels."""
        return self.shape[:-1] if self.channels else self.shape


def read_image(source: Source, rules: ValueRules | None = None, *, mask: bool = False) -> ImageData:
    """Read an image of any known kind.

    Args:
        source: a file, the folder of a DICOM series, or the files of one.
        rules: how stored DICOM values become an image.
        mask: the pixels are class indices, left as stored.

    Raises:
        ImageError: it cannot be read; the reason says why.
    """
    place, kind = _resolve(source)
    if kind == "dicom":
        return read_dicom(place, STORED if mask else rules)
    assert isinstance(place, Path)
    if kind == "nifti":
        return read_nifti(place)
    if kind == "nrrd":
        return read_nrrd(place)
    if kind == "picture":
        return read_picture(place, indices=mask)
    return read_numpy(place)


def image_shape(source: Source) -> tuple[tuple[int, ...], bool]:
    """Return the shape that ``read_image`` will give, from the header, and whether its last axis is of channels.

    Raises:
        ImageError: it cannot be read; the reason says why.
    """
    layout = image_layout(source)
    return layout.shape, layout.channels


def image_layout(source: Source, *, mask: bool = False) -> Layout:
    """Return the shape and the place that ``read_image`` will give, from the header where the format allows.

    Args:
        source: a file, the folder of a DICOM series, or the files of one.
        mask: the pixels are class indices.

    Raises:
        ImageError: it cannot be read; the reason says why.
    """
    place, kind = _resolve(source)
    if kind == "dicom":
        image = open_dicom(place)
        geometry = image.passes[0]
        return Layout(image.shape, image.has_channels, known_place(geometry.affine) if geometry.located else None)
    assert isinstance(place, Path)
    if kind == "nifti":
        nifti = open_nifti(place)
        shape = nifti_shape(nifti)
        return Layout(shape, len(shape) > 3, known_place(nifti_affine(nifti)))
    if kind == "nrrd":
        reader = open_nrrd(place)
        components = int(reader.GetNumberOfComponents())
        shape = tuple(int(length) for length in reader.GetSize())
        affine = known_place(itk_affine(reader))
        return Layout((*shape, components) if components > 1 else shape, components > 1 or len(shape) > 3, affine)
    if kind == "picture":
        shape = picture_shape(place, indices=mask)
        return Layout(shape, len(shape) > 2, None)
    return Layout(read_numpy(place).array.shape, False, None)


class LoadStudy(Transform):  # type: ignore[misc]  # monai is untyped here
    """Load an image as MONAI's ``LoadImage`` does, with DICOM read as a radiologist would expect.

    Files are recognised by their content. DICOM slices are sorted by their position along the normal, whatever their
    order and instance numbers; missing or doubled slices, several series or several orientations are errors. Values
    are rescaled (CT: HU), MONOCHROME1 is turned over, palettes become colours, padding becomes the smallest value.
    Axes are MONAI's: ``W, H[, D][, C]``, and the affine leads from there to RAS mm.

    Args:
        dtype: of the result.
        voi: apply the window or VOI LUT of a DICOM file: for display, rarely for training.
        invert: turn MONOCHROME1 over.
        padding: ``minimum`` or ``keep``, of DICOM padding pixels.
        mask: the file holds class indices, which stay as stored.
        ensure_channel_first: return ``C, W, H[, D]``.
        image_only: accepted as in MONAI; with False the metadata come too.

    Raises:
        ImageError: the image cannot be read, or is not one image; the message says why.

    Example:
        >>> image = LoadStudy()("examination/series-folder")
        >>> image.shape, image.affine.shape
        (torch.Size([7, 6, 5]), torch.Size([4, 4]))
    """

    def __init__(
        self,
        dtype: DTypeLike = np.float32,
        *,
        voi: bool = False,
        invert: bool = True,
        padding: str = "minimum",
        mask: bool = False,
        ensure_channel_first: bool = False,
        image_only: bool = True,
    ) -> None:
        if padding not in ("minimum", "keep"):
            raise ImageError("LoadStudy", f"padding is {padding!r}; choose minimum or keep")
        self.dtype = np.dtype(dtype)
        self.rules = ValueRules(voi=voi, invert=invert, padding=padding)
        self.mask = mask
        self.ensure_channel_first = ensure_channel_first
        self.image_only = image_only

    def __call__(self, filename: Source) -> Any:
        """Return the image as a ``MetaTensor`` (and its metadata, unless ``image_only``)."""
        data = read_image(filename, self.rules, mask=self.mask)
        # In one order of memory, whatever the file: a sum over another order is another number.
        array = np.ascontiguousarray(data.array, dtype=self.dtype)
        spatial = array.shape[:-1] if data.channels else array.shape
        meta = {
            "affine": torch.as_tensor(data.affine),
            "original_affine": data.affine.copy(),
            "space": "RAS",
            "spatial_shape": np.asarray(spatial),
            "original_channel_dim": -1 if data.channels else float("nan"),
            "filename_or_obj": str(_first(filename)),
            **data.notes,
        }
        del data  # its array may be a second copy of the volume
        image = MetaTensor(torch.from_numpy(array), meta=meta)
        if self.ensure_channel_first:
            image = EnsureChannelFirst()(image)
        return image if self.image_only else (image, image.meta)


class LoadStudyd(MapTransform):  # type: ignore[misc]  # monai is untyped here
    """Dictionary form of :class:`LoadStudy`, in the place of MONAI's ``LoadImaged``.

    Args:
        keys: of the images and masks.
        mask_keys: those of ``keys`` whose files hold class indices.
        allow_missing_keys: skip keys that an item lacks.
        options: of ``LoadStudy``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_keys: KeysCollection = ("label",),
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_keys = ensure_tuple(mask_keys)
        self.image_loader = LoadStudy(**options)
        self.mask_loader = LoadStudy(**{**options, "mask": True})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images loaded."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = (self.mask_loader if key in self.mask_keys else self.image_loader)(item[key])
        return item


def _resolve(source: Source) -> tuple[Path | list[Path], Kind]:
    """Return the place to read and its kind, one of those that can be read."""
    if not isinstance(source, str | Path):
        paths = [Path(path) for path in source]
        if len(paths) != 1:
            return paths, "dicom"
        source = paths[0]
    path = Path(source).expanduser()
    if path.is_dir():
        return path, "dicom"
    try:
        kind = kind_of(path)
        if kind in ("dicom", "nifti", "nrrd", "picture", "npy"):
            return path, kind
        raise ImageError(path, describe_unknown(path))
    except FileNotFoundError:
        raise ImageError(path, "does not exist; correct the path") from None
    except OSError as error:
        raise ImageError(path, f"cannot be opened ({error.strerror}); check its permissions") from None


def _first(source: Source) -> str | Path:
    return source if isinstance(source, str | Path) else source[0]
