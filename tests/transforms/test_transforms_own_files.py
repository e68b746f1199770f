"""Every file of pydicom's and nibabel's own test data: read as an independent reader reads it, or refused."""

from fnmatch import fnmatch
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from fedhelp_med.transforms import ImageError, LoadStudy

LOAD = LoadStudy(padding="keep")
ITK, PYDICOM, NIBABEL = "SimpleITK", "pydicom", "nibabel"
NO_PIXELS = "holds no pixel data"
TEXT, UNKNOWN = "a text, not an image", "no known image format"

# Pattern and outcome; the first that fits counts. An outcome is an independent reader, or a part of the reason.
PYDICOM_FILES = [
    ("*.pyc", UNKNOWN),
    ("*.py", TEXT),
    ("charset_files/FileInfo.txt", TEXT),
    ("charset_files/chr[JK]*", NO_PIXELS),
    ("charset_files/chrSQ*", NO_PIXELS),
    ("charset_files/*.dcm", ITK),
    ("palettes/*.dcm", NO_PIXELS),
    ("*.md", TEXT),
    ("*.json", TEXT),
    ("*.txt", TEXT),
    ("*.dump", TEXT),
    ("test_files/dicomdirtests/DICOMDIR*", "an index, not an image"),
    ("test_files/dicomdirtests/TINY_ALPHA/DICOMDIR", "an index, not an image"),
    ("test_files/dicomdirtests/TINY_ALPHA/README", TEXT),
    ("test_files/dicomdirtests/TINY_ALPHA/*", NO_PIXELS),
    ("test_files/dicomdirtests/*", ITK),
    ("test_files/ExplVR_*NoMeta.dcm", "a DICOM radiotherapy plan"),
    ("test_files/JPEG2000-embedded-sequence-delimiter.dcm", "JPEG 2000.* cannot be decoded"),
    ("test_files/MR_truncated.dcm", "cut off: 8130 bytes of pixel data"),
    ("test_files/SC_rgb_rle_16bit*", PYDICOM),  # SimpleITK gets these and the next wrong
    ("test_files/SC_rgb_rle_32bit*", PYDICOM),
    ("test_files/UN_sequence.dcm", NO_PIXELS),
    ("test_files/badVR.dcm", "a DICOM dose grid"),
    ("test_files/crayons.icc", UNKNOWN),
    ("test_files/empty_charset_LEI.dcm", NO_PIXELS),
    ("test_files/examples_palette.dcm", "SimpleITK, 8 bits"),  # the palette has 16
    ("test_files/liver*", "a DICOM segmentation"),
    ("test_files/meta_missing_tsyntax.dcm", "Rows is missing"),
    ("test_files/nested_priv_SQ.dcm", "Rows is missing"),
    ("test_files/no_meta.dcm", "not what its name says"),  # begins with a stray byte
    ("test_files/no_meta_group_length.dcm", NO_PIXELS),
    ("test_files/priv_SQ.dcm", NO_PIXELS),
    ("test_files/reportsi*", "a DICOM structured report"),
    ("test_files/rtdose*", "a DICOM dose grid"),
    ("test_files/rtplan*", "a DICOM radiotherapy plan"),
    ("test_files/rtstruct.dcm", "a DICOM RT structure set"),
    ("test_files/test-SR.dcm", "a DICOM structured report"),
    ("test_files/waveform_ecg.dcm", "a DICOM waveform"),
    ("test_files/zipMR.gz", "compressed with gzip"),
    ("test_files/*.dcm", ITK),
]
NIBABEL_FILES = [
    ("*.pyc", UNKNOWN),
    ("analyze.hdr", "an ANALYZE file without orientation"),
    ("nifti[12].hdr", "cannot be read"),  # its .img is not there
    ("row_major.dconn.nii", "a CIFTI file"),
    ("example_nifti2.nii.gz", NIBABEL),  # SimpleITK does not read NIfTI-2,
    ("resampled_anat_moved.nii", NIBABEL),  # and makes zeros of NaN
    ("*.nii", ITK),
    ("*.nii.gz", ITK),
    ("[01].dcm", "a Siemens mosaic"),
    ("csa_slice_norm.dcm", NO_PIXELS),
    ("*.dcm", ITK),
    ("minc1*.mnc", "a MINC file"),
    ("tiny.mnc", "a MINC file"),
    ("*.mnc", "an HDF5 file"),
    ("*.gz", "compressed with gzip"),
    ("*.mgz", "compressed with gzip"),
    ("*", f"{TEXT}|{UNKNOWN}"),  # tracks, PAR/REC, AFNI and programs: nothing that a hospital exports
]


def listed(folder: Path, table):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            fitting = [outcome for pattern, outcome in table if fnmatch(name, pattern)]
            yield pytest.param(path, fitting[0] if fitting else "not in the table", id=name)


FILES = [
    *listed(Path(pydicom.data.__file__).parent, PYDICOM_FILES),
    *listed(Path(nibabel.__file__).parent / "tests/data", NIBABEL_FILES),
    *listed(Path(nibabel.__file__).parent / "nicom/tests/data", NIBABEL_FILES),
]


@pytest.mark.parametrize(("path", "outcome"), FILES)
def test_read_as_another_reader_does_or_refused(path, outcome):
    if outcome.startswith(ITK):
        image = LOAD(path)
        pixels, affine = by_simpleitk(path)
        ours = image.numpy() // 256 if "8 bits" in outcome else image.numpy()
        np.testing.assert_allclose(ours, pixels.reshape(ours.shape), rtol=1e-6, atol=1e-3)
        if path.suffix != ".dcm" and "nii" in path.name:
            np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    elif outcome == PYDICOM:
        dataset = pydicom.dcmread(path)
        dataset.pixel_array_options(decoding_plugin="pylibjpeg")  # FedHelp uses another one
        pixels = dataset.pixel_array.astype(np.float32)
        axes = (1, 0, 2) if pixels.ndim == 3 else (2, 1, 0, 3)
        np.testing.assert_array_equal(LOAD(path).numpy(), pixels.transpose(axes))
    elif outcome == NIBABEL:
        np.testing.assert_array_equal(LOAD(path).numpy(), nibabel.load(path).get_fdata(dtype=np.float32))
    else:
        with pytest.raises(ImageError, match=outcome) as raised:
            LOAD(path)
        assert "\n" not in str(raised.value)


def by_simpleitk(path):
    """Pixels in the order of MONAI's axes, and the affine in RAS."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = SimpleITK.ReadImage(str(path))
    pixels = SimpleITK.GetArrayFromImage(image)
    space = tuple(range(image.GetDimension()))[::-1]
    colour = image.GetNumberOfComponentsPerPixel() > 1
    pixels = pixels.transpose((*space, len(space)) if colour else space)
    affine, size = np.eye(4), min(3, len(space))
    direction = np.array(image.GetDirection()).reshape(len(space), -1)[:size, :size]
    affine[:size, :size] = direction * np.array(image.GetSpacing())[:size]
    affine[:size, 3] = image.GetOrigin()[:size]
    return pixels, np.diag([-1, -1, 1, 1]) @ affine


def test_the_tables_name_every_file_and_read_many():
    outcomes = [param.values[1] for param in FILES]
    assert "not in the table" not in outcomes
    assert sum(outcome.startswith((ITK, PYDICOM)) for outcome in outcomes) > 90
