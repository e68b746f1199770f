"""Reading NIfTI, NRRD and pictures, by content and with their geometry."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from fedhelp_med.transforms.dicom_geometry import TO_RAS
from fedhelp_med.transforms.dicom_series import ImageData
from fedhelp_med.transforms.errors import ImageError, NotAnImageError, reader_reason
from fedhelp_med.transforms.sniff import head_of

MAXIMUM_PIXELS = 2**28  # of a picture: more is taken for a decompression bomb
TO_MM = {1: 1000.0, 3: 0.001}
"""By the code of a NIfTI file's unit of space; 2 is mm, and 0, unknown, is taken for mm as everybody does."""
PICTURE_FORMATS = ("PNG", "JPEG", "BMP")

FAULTS = (OSError, ValueError, EOFError, RuntimeError, SyntaxError, KeyError, TypeError, ArithmeticError, zlib.error)
"""What nibabel, SimpleITK and Pillow raise on damaged files, besides their own errors."""


def open_nifti(path: Path) -> Any:
    """Open a NIfTI file without reading its voxels.

    Raises:
        ImageError: the header is damaged or makes no sense.
    """
    try:
        image = _open_nifti(path)
        shape, affine = image.shape, np.asarray(image.affine, dtype=np.float64)
    except (*FAULTS, ImageFileError, HeaderDataError) as error:
        raise ImageError(path, f"its NIfTI header cannot be read ({reader_reason(error)}); export it again") from None
    if not shape or min(shape) < 1:
        raise ImageError(path, f"its NIfTI header gives the shape {tuple(shape)}; export it again")
    if 3000 <= int(image.header["intent_code"]) < 3100:
        raise NotAnImageError(path, "a CIFTI file: surface data, not an image")
    if image.get_data_dtype().kind == "c":
        raise ImageError(path, "complex voxels; write magnitude, or real and imaginary part, as images")
    if len(nifti_shape(image)) > 4:
        raise ImageError(path, f"{len(shape)} axes {tuple(shape)}: an image has at most 3 of space and one of channels")
    size = type(image.header).template_dtype.itemsize
    stored = type(image.header)(head_of(path)[:size], check=False)["pixdim"]  # nibabel has made 1 of 0
    spacing = np.asarray(stored[1 : 1 + min(3, len(shape))], dtype=np.float64)
    if not np.isfinite(spacing).all() or (spacing == 0).any():
        raise ImageError(path, f"its NIfTI header gives the spacing {spacing.tolist()} mm; correct it")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError(path, "its NIfTI header has an affine that cannot be inverted; correct sform and qform")
    return image


def nifti_shape(image: Any) -> tuple[int, ...]:
    """The shape without empty axes of time or of channels (``X, Y, Z, 1, C`` of vector images; ``X, Y, Z, 1``)."""
    shape = tuple(int(length) for length in image.shape)
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def nifti_affine(image: Any) -> npt.NDArray[np.float64]:
    """The affine in mm, whatever the unit of the file: metres and micrometres (microscopy) occur."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= TO_MM.get(int(image.header["xyzt_units"]) % 8, 1.0)
    return affine


def read_nifti(path: Path) -> ImageData:
    """Read NIfTI-1 or NIfTI-2, whatever its name; further axes than three are channels.

    Raises:
        ImageError: damaged or not a number type that a network takes.
    """
    image = open_nifti(path)
    try:
        stored = np.asanyarray(image.dataobj)
    except (*FAULTS, ImageFileError) as error:
        raise ImageError(path, f"its voxels cannot be read ({reader_reason(error)}); copy it again") from None
    stored = stored.reshape(nifti_shape(image))
    if stored.dtype.names:  # RGB, RGBA
        stored = np.stack([stored[name] for name in stored.dtype.names], axis=-1)
    array = np.ascontiguousarray(stored).astype(np.float32, copy=False)  # reordered first, while it is small
    return ImageData(array, nifti_affine(image), array.ndim > 3)


def open_nrrd(path: Path) -> Any:
    """Read the header of an NRRD file into a SimpleITK reader.

    Raises:
        ImageError: the header is damaged.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(path, f"its NRRD header cannot be read ({_itk(error)}); export it again") from None
    if min(reader.GetSpacing()) <= 0:
        raise ImageError(path, f"its NRRD header gives the spacing {reader.GetSpacing()} mm; correct it")
    return reader


def read_nrrd(path: Path) -> ImageData:
    """Read an NRRD file with its geometry; components and a fourth axis are channels.

    Raises:
        ImageError: damaged.
    """
    reader = open_nrrd(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ImageError(path, f"its voxels cannot be read ({_itk(error)}); copy it again") from None
    components = image.GetNumberOfComponentsPerPixel() > 1
    values = SimpleITK.GetArrayViewFromImage(image)
    if values.dtype.kind == "c":
        raise ImageError(path, "complex voxels; write magnitude, or real and imaginary part, as images")
    axes = tuple(range(image.GetDimension()))[::-1]
    array = values.transpose((*axes, image.GetDimension()) if components else axes)
    affine = itk_affine(image)
    channels = components or image.GetDimension() > 3
    return ImageData(np.ascontiguousarray(array, dtype=np.float32), affine, channels)


def open_picture(path: Path) -> Any:
    """Open a picture without decoding it.

    Raises:
        ImageError: damaged, or too large.
    """
    try:
        picture = Image.open(path, formats=PICTURE_FORMATS)
    except (*FAULTS, Image.DecompressionBombError) as error:
        raise ImageError(path, f"cannot be read as a picture ({reader_reason(error)}); save it again") from None
    if picture.width * picture.height > MAXIMUM_PIXELS:
        picture.close()
        raise ImageError(path, f"{picture.width} x {picture.height} pixels are more than {MAXIMUM_PIXELS}; cut it")
    return picture


def read_picture(path: Path, *, indices: bool = False) -> ImageData:
    """Read PNG, JPEG or BMP as ``W, H[, C]``, MONAI's order.

    Args:
        path: the file.
        indices: the pixels are a mask: of a palette picture return the palette's indices, not its colours, and of a
            grey one that was saved in colour one channel.

    Raises:
        ImageError: damaged, or too large.
    """
    with open_picture(path) as picture:
        try:
            pixels = np.asarray(picture if indices else _without_palette(picture))
        except (*FAULTS, Image.DecompressionBombError) as error:
            raise ImageError(path, f"its pixels cannot be read ({reader_reason(error)}); save it again") from None
    array = np.ascontiguousarray(np.moveaxis(_as_grey(pixels) if indices else pixels, 0, 1), dtype=np.float32)
    return ImageData(array, np.eye(4), array.ndim > 2)


def picture_shape(path: Path, *, indices: bool = False) -> tuple[int, ...]:
    """The shape that ``read_picture`` gives.

    Raises:
        ImageError: damaged, or too large.
    """
    with open_picture(path) as picture:
        if indices:
            grey = len(picture.getbands()) == 1
            return tuple(picture.size) if grey else tuple(read_picture(path, indices=True).array.shape)
        try:
            bands = len((_without_palette(picture) if picture.mode == "P" else picture).getbands())
        except (*FAULTS, Image.DecompressionBombError) as error:
            raise ImageError(path, f"its pixels cannot be read ({reader_reason(error)}); save it again") from None
        return (*picture.size, bands) if bands > 1 else tuple(picture.size)


def read_numpy(path: Path) -> ImageData:
    """Read a ``.npy`` array as it is; without pickled objects.

    Raises:
        ImageError: damaged, or not numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FAULTS as error:
        raise ImageError(path, f"cannot be read as a NumPy array ({reader_reason(error)}); save it again") from None
    return ImageData(np.ascontiguousarray(array, dtype=np.float32), np.eye(4), False)


def _as_grey(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A mask that was saved in colour, as drawing programs do, without its copies and an alpha that hides nothing."""
    if pixels.ndim < 3:
        return pixels
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if pixels.shape[-1] in (2, 4) else (pixels, None)
    is_grey = (colours == colours[..., :1]).all() and (alpha is None or (alpha == 255).all())
    return colours[..., 0] if is_grey else pixels


def _without_palette(picture: Any) -> Any:
    """A palette picture in its colours, or in grey where it has no others."""
    if picture.mode != "P":
        return picture
    colours = picture.convert("RGB")
    red, green, blue = colours.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else colours


def _open_nifti(path: Path) -> Any:
    head = head_of(path)
    pair = head[344:347] == b"ni1" or head[4:7] == b"ni2"
    if head[4:8] in (b"n+2\x00", b"ni2\x00"):
        family = nibabel.Nifti2Pair if pair else nibabel.Nifti2Image
    else:
        family = nibabel.Nifti1Pair if pair else nibabel.Nifti1Image
    if path.name.lower().endswith((".hdr", ".hdr.gz") if pair else (".nii", ".nii.gz")):
        return family.from_filename(path)
    with path.open("rb") as file:
        content = file.read()
    stream = io.BytesIO(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return family.from_file_map({"header": FileHolder(fileobj=stream), "image": FileHolder(fileobj=stream)})


def itk_affine(image: Any) -> npt.NDArray[np.float64]:
    """The first three axes' index-to-RAS affine of a SimpleITK image or reader, whose own is LPS."""
    dimensions = image.GetDimension()
    used = min(3, dimensions)
    direction = np.array(image.GetDirection()).reshape(dimensions, dimensions)
    affine = np.eye(4)
    affine[:used, :used] = (direction * np.array(image.GetSpacing()))[:used, :used]
    affine[:used, 3] = np.array(image.GetOrigin())[:used]
    ras: npt.NDArray[np.float64] = TO_RAS @ affine
    return ras


def _itk(error: RuntimeError) -> str:
    """The telling end of ITK's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reader_reason(RuntimeError(lines[-1].split("ERROR:")[-1].strip() if lines else "damaged"))
