import io

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.transforms import LoadImage

from fedhelp_med.data import make_icbm_sites, make_tissue_sites, read_datalist
from fedhelp_med.data.simulated_scan import Scan, as_nifti, as_series
from fedhelp_med.federation.loading import SHIPPED_BUNDLES
from fedhelp_med.transforms import LoadStudy

TINY = {
    "seed": 3,
    "small_sites": 2,
    "large_sites": 1,
    "small_training": 2,
    "large_training": 2,
    "small_validation": 2,
    "large_validation": 2,
    "testing": 2,
    "public": 2,
    "foundation": 2,
    "foundation_validation": 2,
}
SCAN = Scan(
    np.random.default_rng(0).integers(0, 32768, (5, 4, 6)).astype(np.int16), (0.9, 1.1, 1.05), (3.25, -20.5, 40.125)
)


def write(files, folder):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_all_values_survive_the_rescale():
    values = np.arange(32768, dtype=np.int16).reshape(2, 128, 128)
    for content in as_series(Scan(values, (1, 1, 1), (0, 0, 0)), "site", "patient", 0).values():
        dataset = pydicom.dcmread(io.BytesIO(content))
        rescaled = pydicom.pixels.apply_rescale(dataset.pixel_array, dataset)
        np.testing.assert_array_equal(rescaled, values[dataset.InstanceNumber - 1])


def test_independent_readers_find_the_twins_voxels_in_the_twins_place(tmp_path):
    """SimpleITK reads the series, nibabel the NIfTI file."""
    write(as_series(SCAN, "site", "patient", 0), tmp_path)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    twin = nibabel.Nifti1Image.from_bytes(as_nifti(SCAN))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, twin.get_fdata())
    for index in ((0, 0, 0), (5, 3, 4), (2, 1, 3)):
        there = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(there, (twin.affine @ [*index, 1])[:3], atol=1e-4)


def test_a_reader_that_goes_by_instance_numbers_sees_the_same(tmp_path):
    """MONAI's own reader; MONAI Label reads with it."""
    folder = write(as_series(SCAN, "site", "patient", 0), tmp_path)
    image = LoadImage(image_only=True)(folder)
    np.testing.assert_array_equal(image, SCAN.voxels.T)
    np.testing.assert_allclose(image.affine[:3, 3], SCAN.origin, atol=1e-6)


def test_the_series_has_what_an_mr_series_must_have():
    files = as_series(SCAN, "clinic-b", "clinic-b-training-0001", 0)
    slices = [pydicom.dcmread(io.BytesIO(content)) for content in files.values()]
    assert len(slices) == 5
    for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({str(dataset[key].value) for dataset in slices}) == 1
    assert len({dataset.SOPInstanceUID for dataset in slices}) == 5
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in slices]
    np.testing.assert_allclose(np.diff(heights), 1.05, atol=1e-9)
    first = slices[0]
    assert first.SOPClassUID == pydicom.uid.MRImageStorage
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert list(first.PixelSpacing) == [1.1, 0.9]  # between rows, between columns
    assert (first.Rows, first.Columns) == (4, 6)
    for element in first.iterall():
        if element.VR == "UI":
            assert pydicom.uid.UID(element.value).is_valid


def test_another_seed_or_site_has_other_identifiers():
    def identifiers(*names):
        files = as_series(SCAN, *names)
        return {pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID for content in files.values()}

    first = identifiers("a", "p", 0)
    assert first == identifiers("a", "p", 0)
    assert not first & identifiers("a", "p", 1)
    assert not first & identifiers("b", "p", 0)


@settings(deadline=None, max_examples=20)
@given(
    spacing=st.tuples(*[st.floats(0.001, 500)] * 3),
    centre=st.tuples(*[st.floats(-1e4, 1e4)] * 3),
)
def test_any_geometry_fits_the_decimal_strings(spacing, centre):
    for content in as_series(Scan(SCAN.voxels[:2], spacing, centre), "site", "patient", 0).values():
        dataset = pydicom.dcmread(io.BytesIO(content))
        x, y, z = Scan(SCAN.voxels[:2], spacing, centre).origin
        z += (dataset.InstanceNumber - 1) * spacing[2]
        np.testing.assert_allclose([float(v) for v in dataset.ImagePositionPatient], (-x, -y, z), atol=1e-3)
        assert all(len(str(value)) <= 16 for value in dataset.ImagePositionPatient)


def preprocessing(bundle):
    """The transforms of a bundle's evaluator."""
    parser = ConfigParser()
    parser.read_config(str(SHIPPED_BUNDLES / bundle / "configs" / "train.json"))
    return parser.get_parsed_content("validate#preprocessing")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("make", "bundle"),
    [(make_icbm_sites, "fedhelp_classification"), (make_tissue_sites, "fedhelp_segmentation")],
)
def test_a_demo_site_with_series_loads_to_the_bits_of_its_nifti_twin(make, bundle, tmp_path):
    prepare = preprocessing(bundle)
    sites = [make(tmp_path / str(dicom), **TINY, dicom=dicom).sites for dicom in (False, True)]
    kinds = []
    for plain, series in zip(*sites, strict=True):
        one, other = (read_datalist(site.datalist) for site in (plain, series))
        kinds.append(set())
        for split, items in one.splits.items():
            for left, right in zip(items, other.splits[split], strict=True):
                kinds[-1].add(right["image"].endswith(".nii"))
                assert left.get("patient") == right.get("patient")
                a, b = LoadStudy()(left["image"]), LoadStudy()(right["image"])
                assert a.stride() == b.stride()  # else the transforms' sums differ in their last bits
                assert a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
                np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)
                one_item, other_item = prepare(left), prepare(right)
                assert one_item.keys() == other_item.keys() == {"image", "label"}
                for key in one_item:
                    assert torch.equal(torch.as_tensor(one_item[key]), torch.as_tensor(other_item[key]))
    assert kinds == [{True}, {False}, {True}]  # the second clinic of two, no hospital of one
