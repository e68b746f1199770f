"""From stored pixels to values, against values computed by hand."""

import numpy as np
import pydicom
import pytest
from dicom_samples import item, oblique, ramp, set_pixels, write_enhanced, write_radiograph, write_series
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from fedhelp_med.common.errors import InputError
from fedhelp_med.transforms import ImageError, LoadStudy
from fedhelp_med.transforms.dicom_file import read_dicom_file

STORED = np.arange(48, dtype=np.uint16).reshape(6, 8)


def load(path, **options):
    return LoadStudy(**options)(path).numpy().T


def editing(**elements):
    def edit(_, ds):
        for keyword, value in elements.items():
            setattr(ds, keyword, value)

    return edit


def test_ct_comes_in_hu_for_every_slice_by_its_own_slope(tmp_path):
    def edit(level, ds):
        ds.RescaleSlope, ds.RescaleIntercept = level + 1, -1000 + level

    write_series(tmp_path, ramp(), oblique(), modality="CT", edit=edit)
    expected = ramp() * np.arange(1, 6) + np.arange(-1000, -995)
    np.testing.assert_array_equal(LoadStudy()(tmp_path).numpy(), expected)


def test_a_fractional_slope_is_computed_in_double_precision(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", STORED, edit=editing(RescaleSlope="0.3", RescaleIntercept="0.1"))
    np.testing.assert_array_equal(load(path), (STORED * 0.3 + 0.1).astype(np.float32))


def test_monochrome1_is_turned_over_within_the_range_of_its_bits(tmp_path):
    edit = editing(BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-7)
    path = write_radiograph(tmp_path / "x.dcm", STORED, photometric="MONOCHROME1", edit=edit)
    np.testing.assert_array_equal(load(path), (4095 - STORED.astype(float)) * 2 - 7)
    np.testing.assert_array_equal(load(path, invert=False), STORED * 2.0 - 7)


def test_modality_lut(tmp_path):
    table = (np.arange(48, dtype="<u2") ** 2).tobytes()
    lut = item(LUTDescriptor=[48, 0, 16], ModalityLUTType="US", LUTData=table)
    path = write_radiograph(tmp_path / "x.dcm", STORED, edit=editing(ModalityLUTSequence=lut))
    np.testing.assert_array_equal(load(path), STORED.astype(float) ** 2)


def test_voi_window_only_when_asked_for(tmp_path):
    edit = editing(WindowCenter=20, WindowWidth=11, BitsStored=8, HighBit=7)
    path = write_radiograph(tmp_path / "x.dcm", STORED, edit=edit)
    np.testing.assert_array_equal(load(path), STORED)
    shown = load(path, voi=True)
    expected = np.clip(((STORED - 19.5) / 10 + 0.5) * 255, 0, 255)  # PS3.3, C.11.2.1.2.1, linear
    np.testing.assert_allclose(shown, expected, atol=1e-3)


def test_unused_bits_are_masked_and_signs_extended(tmp_path):
    signed = np.array([[-3, 5], [2047, -2048]], np.int16)
    dirty = ((signed.astype(np.int32) & 0x0FFF) | 0xA000).astype(np.uint16)  # an overlay in the upper bits

    def edit(_, ds):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1

    np.testing.assert_array_equal(load(write_radiograph(tmp_path / "x.dcm", dirty, edit=edit)), signed)


def test_padding_becomes_the_smallest_other_value(tmp_path):
    pixels = STORED.astype(np.int16)
    pixels[0, :4] = -2000
    pixels[1, 0] = -1990
    edit = editing(PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    path = write_radiograph(tmp_path / "x.dcm", pixels, edit=edit)
    expected = pixels.astype(float)
    expected[expected < 0] = 4  # 0 to 3 were covered
    np.testing.assert_array_equal(load(path), expected)
    np.testing.assert_array_equal(load(path, padding="keep"), pixels)


@pytest.mark.parametrize(("value", "limit"), [(63536, None), (63536, 63546), (-2000, 63546)])
def test_padding_that_is_written_unsigned_beside_signed_pixels(value, limit, tmp_path):
    pixels = STORED.astype(np.int16)
    pixels[0, :2] = -2000  # 63536 as 16 unsigned bits

    def edit(_, ds):
        ds.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", "US", limit)

    path = write_radiograph(tmp_path / "x.dcm", pixels, edit=edit)
    assert load(path).min() == 2


def test_planar_colour_and_palette(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)

    def planar(_, ds):
        set_pixels(ds, colours, "RGB")
        ds.PlanarConfiguration = 1
        ds.PixelData = np.ascontiguousarray(colours.transpose(2, 0, 1)).tobytes()

    image = LoadStudy()(write_radiograph(tmp_path / "planar.dcm", edit=planar))
    np.testing.assert_array_equal(image.numpy().transpose(1, 0, 2), colours)
    assert image.meta["original_channel_dim"] == -1

    def palette(_, ds):
        set_pixels(ds, np.array([[0, 1], [2, 1]], np.uint8))
        ds.PhotometricInterpretation = "PALETTE COLOR"
        for colour, table in {"Red": (9, 8, 7, 0), "Green": (1, 2, 3, 0), "Blue": (40, 50, 60, 0)}.items():
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 8])
            setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(table))

    image = LoadStudy()(write_radiograph(tmp_path / "palette.dcm", edit=palette))
    expected = [[[9, 1, 40], [8, 2, 50]], [[7, 3, 60], [8, 2, 50]]]
    np.testing.assert_array_equal(image.numpy().transpose(1, 0, 2), expected)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless,
     JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)  # fmt: skip
def test_every_transfer_syntax_gives_the_same_series(syntax, tmp_path):
    write_series(tmp_path / "plain", ramp((64, 40, 2)), oblique())
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "plain").iterdir():
        ds = pydicom.dcmread(path)
        if syntax.is_encapsulated:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            ds["PixelData"].VR = "OW"
            if syntax is ExplicitVRBigEndian:
                ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
            ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / "other" / path.name, ds, enforce_file_format=True)
    plain, other = LoadStudy()(tmp_path / "plain"), LoadStudy()(tmp_path / "other")
    np.testing.assert_array_equal(other.numpy(), plain.numpy())
    np.testing.assert_array_equal(other.affine, plain.affine)


def test_float_pixels_and_functional_groups(tmp_path):
    def edit(_, ds):
        del ds.PixelData
        ds.FloatPixelData = np.array([[0.5, -1.25], [3, 7]], "<f4").tobytes()
        ds.Rows = ds.Columns = 2
        ds.BitsAllocated = 32

    path = write_radiograph(tmp_path / "x.dcm", edit=edit)
    np.testing.assert_array_equal(load(path), [[0.5, -1.25], [3, 7]])
    path = write_enhanced(tmp_path / "e.dcm", [ramp()], oblique(), slope=0.5, intercept=3)
    np.testing.assert_array_equal(LoadStudy()(path).numpy(), ramp() * 0.5 + 3)


def test_a_mask_stays_as_it_is_stored(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", STORED, photometric="MONOCHROME1", edit=editing(RescaleSlope=5))
    np.testing.assert_array_equal(load(path, mask=True), STORED)


def test_wrong_options_and_missing_files(tmp_path):
    with pytest.raises(InputError, match="padding is 'none'"):
        LoadStudy(padding="none")
    with pytest.raises(ImageError, match="does not exist"):
        LoadStudy()(tmp_path / "none.dcm")
    with pytest.raises(ImageError, match="an empty list"):
        LoadStudy()([])
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(ImageError, match="no DICOM image in this folder"):
        LoadStudy()(tmp_path)


def test_the_header_says_where_the_pixels_begin(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", STORED)
    file = read_dicom_file(path)
    assert path.read_bytes()[file.offset :] == STORED.tobytes()
    assert (file.size, file.frames, file.syntax) == ((8, 6), 1, ExplicitVRLittleEndian)
