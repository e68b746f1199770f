"""From the stored pixels of a DICOM file to values: decoding, modality and VOI look-up, inversion, colour, padding."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from fedhelp_med.transforms.dicom_file import DicomFile, quiet, read_dataset
from fedhelp_med.transforms.dicom_geometry import Frame
from fedhelp_med.transforms.errors import ImageError, reader_reason

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

DECODERS = ("pylibjpeg", "pyjpegls", "gdcm", "pillow")
"""In this order, because decoders differ by a grey level on some files, and the numbers must not.

``pydicom.pixels`` is imported where it is used: NIfTI images also load beside pydicom 2, which MONAI Label pins.
"""

RLE = "1.2.840.10008.1.2.5"  # pydicom's own decoder: that of pylibjpeg panics on damaged data, which nothing catches
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"


@dataclass(frozen=True, slots=True)
class ValueRules:
    """How stored values become an image.

    Attributes:
        modality: apply the rescaling or the modality LUT (CT: to HU).
        voi: apply the VOI LUT or the window of the file (PS3.3, C.11.2): for display, rarely for training.
        invert: turn MONOCHROME1 over, so that more is brighter.
        padding: ``minimum`` sets padding pixels to the smallest other value of the image, ``keep`` leaves them.
    """

    modality: bool = True
    voi: bool = False
    invert: bool = True
    padding: str = "minimum"


STORED = ValueRules(modality=False, voi=False, invert=False, padding="keep")


def decode(file: DicomFile) -> Array:
    """Decode all frames as stored: ``frames, H, W``, or ``frames, H, W, 3`` in RGB.

    Raises:
        ImageError: no decoder can read them.
    """
    if _is_plain(file):
        return _native(file)
    dataset = read_dataset(file.path)
    if file.syntax == JPEG_EXTENDED and file.samples == 1 and int(file.header.get("BitsStored") or 8) > 8:
        return _by_simpleitk(file, dataset)
    from pydicom.pixels.decoders.base import get_decoder

    syntax = pydicom.uid.UID(file.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(file.path, f"transfer syntax {syntax.name}: not supported; export it uncompressed") from None
    reasons = []
    names = DECODERS if file.syntax != RLE else ("pydicom",)
    plugins = [name for name in names if name in decoder.available_plugins] if not decoder.is_native else [""]
    for plugin in plugins:
        try:
            with quiet():
                pixels, _ = decoder.as_array(dataset, decoding_plugin=plugin)
            return pixels.reshape(file.frames, file.size[1], file.size[0], *pixels.shape[pixels.ndim - _tail(file) :])
        except Exception as error:  # decoders raise whatever their libraries raise
            reasons.append(f"{plugin or 'pydicom'}: {reader_reason(error)}")
    if not plugins:
        raise ImageError(
            file.path, f"no decoder for {syntax.name} here; pip install 'fedhelp-med[dicom]', or export it uncompressed"
        )
    raise ImageError(file.path, f"its pixel data ({syntax.name}) cannot be decoded ({reasons[0]}); export it again")


def grey_values(stored: Array, file: DicomFile, frame: Frame, rules: ValueRules) -> tuple[Values, Mask | None]:
    """Turn one stored frame ``H, W`` into values, and say which pixels are padding (None: none are)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    header = file.header
    padding = _padding(stored, header) if rules.padding != "keep" else None
    values: Array = stored
    if rules.modality:
        values = apply_modality_lut(stored, header) if header.get("ModalityLUTSequence") else _rescale(stored, frame)
    if rules.voi and (header.get("VOILUTSequence") or header.get("WindowWidth")):
        values = apply_voi_lut(values, header)
    result = values.astype(np.float32)
    if rules.invert and file.text("PhotometricInterpretation") == "MONOCHROME1":
        low, high = _range(stored, header, frame, rules)
        result = np.float32(low + high) - result
    return result, padding


def colour_values(stored: Array, file: DicomFile) -> Values:
    """Turn stored pixels ``H, W`` (palette) or ``H, W, 3`` into colours ``H, W, 3``.

    Raises:
        ImageError: the palette is damaged.
    """
    if file.text("PhotometricInterpretation") == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        try:
            stored = apply_color_lut(stored, file.header)
        except Exception as error:  # pydicom raises whatever a damaged table leads to
            raise ImageError(
                file.path, f"its colour palette cannot be used ({reader_reason(error)}); export it again"
            ) from None
    return stored.astype(np.float32)


def is_colour(file: DicomFile) -> bool:
    """Whether a pixel is a colour."""
    return file.samples > 1 or file.text("PhotometricInterpretation") == "PALETTE COLOR"


def fill_padding(volume: Values, masks: Mask) -> None:
    """Set padding to the smallest value that is none, in place."""
    smallest = np.min(volume, where=~masks, initial=np.inf)  # without a copy of the volume
    if np.isfinite(smallest):
        volume[masks] = smallest


def _tail(file: DicomFile) -> int:
    return 1 if file.samples > 1 else 0


def _is_plain(file: DicomFile) -> bool:
    bits = int(file.header.BitsAllocated)
    return file.offset is not None and file.syntax in NATIVE and file.samples == 1 and bits in (8, 16)


def _native(file: DicomFile) -> Array:
    """Read uncompressed grey pixels straight from their place in the file."""
    header = file.header
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or header.BitsAllocated)
    high = int(header.get("HighBit", stored - 1) or stored - 1)
    kind = "i" if header.get("PixelRepresentation") == 1 else "u"
    columns, rows = file.size
    pixels = np.fromfile(
        file.path, dtype=f"<{kind}{allocated // 8}", count=file.frames * rows * columns, offset=file.offset or 0
    )
    if pixels.size != file.frames * rows * columns:
        raise ImageError(file.path, "cut off while it was read; copy it again")
    if stored < allocated:  # the unused bits may hold anything, such as an overlay (PS3.5, 8.1.1)
        np.left_shift(pixels, allocated - 1 - high, out=pixels)
        np.right_shift(pixels, allocated - stored, out=pixels)
    return pixels.reshape(file.frames, rows, columns)


def _by_simpleitk(file: DicomFile, dataset: Any) -> Array:
    """12-bit JPEG, which only SimpleITK's own codec reads; it rescales, which is taken back."""
    import SimpleITK

    try:
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file.path))
        pixels = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise ImageError(
            file.path, f"its 12-bit JPEG pixel data cannot be decoded ({reader_reason(error)}); export it again"
        ) from None
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    stored: Array = np.rint((pixels.astype(np.float64) - intercept) / slope).astype(np.int32)
    return stored.reshape(file.frames, file.size[1], file.size[0])


def _rescale(stored: Array, frame: Frame) -> Array:
    slope, intercept = 1.0 if frame.slope is None else frame.slope, frame.intercept
    if slope == 1 and intercept.is_integer():  # exact in float32, and the usual case
        return stored if intercept == 0 else stored.astype(np.float32) + np.float32(intercept)
    scaled: Array = stored * np.float64(slope) + np.float64(intercept)
    return scaled


def _range(stored: Array, header: Any, frame: Frame, rules: ValueRules) -> tuple[float, float]:
    """The smallest and the largest value that the file could hold, after the look-ups."""
    for wanted, keyword in ((rules.voi, "VOILUTSequence"), (rules.modality, "ModalityLUTSequence")):
        if wanted and header.get(keyword):
            return 0.0, float(2 ** int(header.get(keyword)[0].LUTDescriptor[2]) - 1)
    if stored.dtype.kind == "f":
        low, high = float(stored.min()), float(stored.max())
    else:
        bits = int(header.get("BitsStored") or header.BitsAllocated)
        signed = header.get("PixelRepresentation") == 1
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if not rules.modality:
        return low, high
    slope = 1.0 if frame.slope is None else frame.slope
    return low * slope + frame.intercept, high * slope + frame.intercept


def _padding(stored: Array, header: Any) -> Mask | None:
    """Which pixels were never measured (PS3.3, C.7.5.1.1.2)."""
    value = _as_stored(header.get("PixelPaddingValue"), header)
    if value is None:
        return None
    limit = _as_stored(header.get("PixelPaddingRangeLimit"), header)
    low, high = sorted((value, value if limit is None else limit))
    mask: Mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _as_stored(value: Any, header: Any) -> int | None:
    """A padding value as the pixels hold it: GE writes 63536 as unsigned beside signed pixels, which hold -2000."""
    if not isinstance(value, int):
        return None
    bits = int(header.BitsAllocated)
    signed = header.get("PixelRepresentation") == 1
    low = -(2 ** (bits - 1)) if signed else 0
    return value if low <= value < low + 2**bits else (value - low) % 2**bits + low
