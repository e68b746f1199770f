"""The privacy guard refuses one by one what may not leave, and says which and why."""

import json
import os
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
from foundation_phantoms import CountingNetwork, make_model, write_image, write_public
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import read_datalist
from fedhelp_med.foundation import Ledger, PrivacyGuard, acquire, plan_acquisition
from fedhelp_med.foundation.guard import fingerprint, identifying_elements
from fedhelp_med.transforms.identity import IDENTIFYING, PSEUDONYMS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


@pytest.fixture
def refuses(path):
    """Acquire, expect a refusal before anything is sent, and return what it says."""

    def run(datalist, private=(), asked=0):
        network = CountingNetwork()
        with pytest.raises(InputError) as refusal:
            acquire(datalist, make_model(network), path, private=private, batch_size=1)
        assert sum(network.batches) == asked
        return str(refusal.value)

    return run


# Only what declares itself public


@pytest.mark.parametrize("declared", [False, None])
def test_a_datalist_that_does_not_say_that_it_is_public(tmp_path, path, refuses, declared):
    datalist = write_public(tmp_path, public=False)
    content = json.loads(datalist.read_text())
    if declared is None:
        del content["public"]
    datalist.write_text(json.dumps(content))
    assert "does not declare itself public" in refuses(datalist)
    assert not path.exists()
    with pytest.raises(InputError, match="does not declare itself public"):
        plan_acquisition(datalist, make_model(), path)


def test_public_is_true_and_not_something_like_it(tmp_path, refuses):
    datalist = write_public(tmp_path)
    datalist.write_text(json.dumps(json.loads(datalist.read_text()) | {"public": "yes"}))
    assert "public: 'yes' is not valid" in refuses(datalist)


# Places of private data


def test_images_in_a_private_folder(tmp_path, refuses):
    private = write_public(tmp_path / "clinic", [7, 8], public=False)
    content = json.loads(write_public(tmp_path / "public", [1]).read_text())
    content["training"].append({"image": "../clinic/unlisted/scan.nii.gz"})
    (tmp_path / "clinic" / "unlisted").mkdir()
    write_image(tmp_path / "clinic/unlisted/scan.nii.gz", 9)
    datalist = tmp_path / "public" / "datalist.json"
    datalist.write_text(json.dumps(content))
    said = refuses(datalist, [private])
    assert "1 images lie in folders of private data" in said and "unlisted/scan.nii.gz (in " in said


def test_a_link_into_a_private_folder(tmp_path, refuses):
    private = write_public(tmp_path / "clinic", [7], public=False)
    datalist = write_public(tmp_path / "public", [1, 2])
    image = tmp_path / "public/images/training-001.nii.gz"
    image.unlink()
    image.symlink_to(tmp_path / "clinic/images/training-000.nii.gz")
    assert "training-001.nii.gz (in " in refuses(datalist, [private])


def test_private_images_and_masks_elsewhere_than_their_datalist(tmp_path, refuses):
    write_public(tmp_path / "archive", [7], public=False)
    (tmp_path / "lists").mkdir()
    private = tmp_path / "lists" / "clinic.json"
    private.write_text(json.dumps({"testing": [{"image": "../archive/images/training-000.nii.gz"}]}))
    write_image(tmp_path / "archive/images/other.nii.gz", 3)
    datalist = tmp_path / "public.json"
    datalist.write_text(json.dumps({"public": True, "training": [{"image": "archive/images/other.nii.gz"}]}))
    assert "other.nii.gz (in " in refuses(datalist, [private])


# Pixels of private images


def test_a_copy_of_a_private_image_under_another_name(tmp_path, refuses):
    private = write_public(tmp_path / "clinic", [7, 8], public=False, validation=[9])
    datalist = write_public(tmp_path / "public", [1, 2, 9, 3])  # seed 9: in the site's validation split
    said = refuses(datalist, [private], asked=2)
    assert "public/images/training-002.nii.gz is not sent" in said
    assert "pixels of the private image" in said and "clinic/images/validation-000.nii.gz" in said


def test_a_private_image_saved_in_another_format(tmp_path, refuses):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8), dtype=np.uint8)
    (tmp_path / "clinic").mkdir()
    Image.fromarray(pixels).save(tmp_path / "clinic/scan.png")
    private = tmp_path / "clinic/datalist.json"
    private.write_text(json.dumps({"training": [{"image": "scan.png"}]}))
    (tmp_path / "public").mkdir()
    slab = np.stack([pixels[::-1].T / 255.0] * 3, -1)  # mirrored, transposed, scaled, grey as colour
    nibabel.save(nibabel.Nifti1Image(slab.astype(np.float32), np.eye(4)), tmp_path / "public/scan.nii.gz")
    datalist = tmp_path / "public/datalist.json"
    datalist.write_text(json.dumps({"public": True, "training": [{"image": "scan.nii.gz"}]}))
    assert "pixels of the private image" in refuses(datalist, [private])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), turns=st.integers(0, 3), scale=st.sampled_from([1, 0.5, 1 / 255, 3, 4095]))
def test_the_fingerprint_is_that_of_the_picture(seed, turns, scale):
    pixels = np.random.default_rng(seed).integers(0, 4096, (9, 7)).astype(np.float32)
    own = fingerprint(pixels)
    assert fingerprint(np.rot90(pixels, turns)[None] * np.float32(scale) + np.float32(16)) == own
    assert fingerprint(pixels.T[..., None].astype(np.int16)) == own
    assert fingerprint(np.stack([pixels] * 3)) == own
    assert fingerprint(np.sqrt(pixels)) == own
    other = pixels.copy()
    other[3, 4] = (other[3, 4] + 2048) % 4096
    assert fingerprint(other) != own
    moved = pixels.copy()
    moved[[0, 1], 0] = moved[[1, 0], 0]  # the same histogram
    assert fingerprint(moved) != own or pixels[0, 0] == pixels[1, 0]


def test_images_of_one_value_differ_by_their_size():
    assert fingerprint(np.zeros((6, 5))) == fingerprint(np.ones((1, 5, 6)))
    assert fingerprint(np.zeros((6, 5))) != fingerprint(np.zeros((6, 6)))


def test_private_data_that_cannot_be_read_stop_everything(tmp_path, refuses):
    private = write_public(tmp_path / "clinic", [7], public=False)
    (tmp_path / "clinic/images/training-000.nii.gz").write_bytes(b"damaged")
    said = refuses(write_public(tmp_path / "public", [1]), [private])
    assert "clinic/images/training-000.nii.gz cannot be read" in said and "private datalist" in said


# DICOM


def write_dicom(file, **elements):
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, pydicom.uid.generate_uid()
    dataset.Rows = dataset.Columns = 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.random.default_rng(0).integers(0, 4000, (8, 8), dtype=np.uint16).tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(file, enforce_file_format=True)


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ({}, []),
        ({"PatientName": "", "PatientID": "", "PatientSex": "F", "PatientAge": "040Y"}, []),
        ({"SeriesDescription": "T1 axial", "StudyDescription": "knee"}, []),
        ({"ConsultingPhysicianName": "Roe^Richard"}, ["ConsultingPhysicianName"]),
        ({"PatientName": "Doe^Jane"}, ["PatientName"]),
        ({"PatientID": "17", "PatientBirthDate": "19700101"}, ["PatientBirthDate", "PatientID"]),
        ({"PatientIdentityRemoved": "YES", "PatientName": "case-1", "PatientID": "1", "StudyID": "1"}, []),
        ({"PatientIdentityRemoved": "YES", "PatientBirthDate": "19700101"}, ["PatientBirthDate"]),
        ({"PatientIdentityRemoved": "NO", "AccessionNumber": "A1"}, ["AccessionNumber"]),
        ({"InstitutionName": "St. Elsewhere"}, ["InstitutionName"]),
        ({"DeviceSerialNumber": "4711", "ImageComments": ""}, ["DeviceSerialNumber"]),
        ({"PatientIdentityRemoved": "YES", "ClinicalTrialSubjectID": "S-1"}, []),
        ({"StudyDate": "20240101", "ContentTime": "101500"}, []),
        ({"BurnedInAnnotation": "YES"}, ["BurnedInAnnotation: YES"]),
    ],
)
@pytest.mark.parametrize("name", ["scan.dcm", "scan"])
def test_elements_that_say_who_the_patient_is(tmp_path, elements, found, name):
    write_dicom(tmp_path / name, **elements)
    assert identifying_elements(tmp_path / name) == found


def test_a_name_inside_a_sequence(tmp_path):
    inner = Dataset()
    inner.PatientName = "Doe^Jane"
    write_dicom(tmp_path / "scan.dcm", ReferencedStudySequence=Sequence([inner]))
    assert identifying_elements(tmp_path / "scan.dcm") == ["PatientName"]
    write_dicom(tmp_path / "scan.dcm", PatientIdentityRemoved="YES", ReferencedStudySequence=Sequence([inner]))
    assert identifying_elements(tmp_path / "scan.dcm") == ["PatientName"]  # what is declared holds for the file's own


@pytest.mark.parametrize("keyword", sorted(filter(tag_for_keyword, IDENTIFYING)))  # what this pydicom knows
def test_what_the_transforms_call_identifying_is_refused(tmp_path, keyword):
    inner = Dataset()
    inner.CodeValue = "1"
    texts = {"DA": "20240101", "TM": "101500", "US": 1}
    representation = dictionary_VR(keyword)
    value = Sequence([inner]) if representation == "SQ" else texts.get(representation, "x")
    write_dicom(tmp_path / "scan.dcm", **{keyword: value})
    assert identifying_elements(tmp_path / "scan.dcm") == [keyword]
    if keyword not in PSEUDONYMS:
        write_dicom(tmp_path / "scan.dcm", PatientIdentityRemoved="YES", **{keyword: value})
        assert identifying_elements(tmp_path / "scan.dcm") == [keyword]


def test_one_file_of_a_series_is_enough(tmp_path):
    for number in range(3):
        write_dicom(tmp_path / f"{number}", **({"PatientName": "Doe^Jane"} if number == 2 else {}))
    assert identifying_elements(tmp_path) == ["PatientName"]


def test_a_series_with_a_link_into_a_private_folder(tmp_path):
    private = write_public(tmp_path / "clinic", [7], public=False)
    guard = PrivacyGuard(read_datalist(write_public(tmp_path / "public", [1])), [private])
    (tmp_path / "series").mkdir()
    write_dicom(tmp_path / "series/0.dcm")
    guard.check_places([str(tmp_path / "series")])
    (tmp_path / "series/1.dcm").symlink_to(tmp_path / "clinic/images/training-000.nii.gz")
    with pytest.raises(InputError, match=r"series \(in "):
        guard.check_places([str(tmp_path / "series")])


def test_the_folders_that_a_private_series_links_to_are_private(tmp_path):
    series = tmp_path / "lists/datalist.files/series/mr"
    series.mkdir(parents=True)
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
        write_dicom(tmp_path / name / "0.dcm")
    (series / "00000.dcm").symlink_to(tmp_path / "disk/0.dcm")
    write_dicom(tmp_path / "disk/unlisted.dcm")
    private = tmp_path / "lists/datalist.json"
    private.write_text(json.dumps({"training": [{"image": "datalist.files/series/mr"}]}))
    guard = PrivacyGuard(read_datalist(write_public(tmp_path / "public", [1])), [private])
    guard.check_places([str(tmp_path / "other/0.dcm")])
    with pytest.raises(InputError, match=r"disk/unlisted\.dcm \(in "):
        guard.check_places([str(tmp_path / "disk/unlisted.dcm")])


def test_other_files_have_no_such_elements(tmp_path):
    write_image(tmp_path / "scan.nii.gz", 0)
    (tmp_path / "short").write_bytes(b"x")
    assert identifying_elements(tmp_path / "scan.nii.gz") == identifying_elements(tmp_path / "short") == []


def test_dicom_of_a_known_patient_is_not_sent(tmp_path, refuses):
    write_dicom(tmp_path / "a.dcm", PatientIdentityRemoved="YES")
    write_dicom(tmp_path / "b.dcm", PatientName="Doe^Jane")
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"public": True, "training": [{"image": "a.dcm"}, {"image": "b.dcm"}]}))
    said = refuses(datalist, asked=1)
    assert "b.dcm is not sent: it still says who the patient is (PatientName)" in said
    assert "Jane" not in said


# What is not refused, and what is not written down


def test_a_clean_public_set_passes_and_no_trace_of_private_images_is_kept(tmp_path, path):
    private = write_public(tmp_path / "clinic", [7, 8], public=False)
    datalist = write_public(tmp_path / "public", range(4))
    assert acquire(datalist, make_model(), path, private=[private]).asked == 4
    with Ledger(path, readonly=True) as ledger:
        files = [file for (file,) in ledger.rows("SELECT path FROM images")]
    assert not any("clinic" in file for file in files)
    assert b"clinic" not in path.read_bytes()


def test_the_dry_run_names_all_that_would_be_refused(tmp_path, path):
    private = write_public(tmp_path / "clinic", [7, 8], public=False)
    datalist = write_public(tmp_path / "public", [7, 1, 8])
    shutil.copy(tmp_path / "clinic/images/training-000.nii.gz", tmp_path / "clinic/spare.nii.gz")
    content = json.loads(datalist.read_text())
    content["training"].append({"image": os.fspath(tmp_path / "clinic/spare.nii.gz")})
    datalist.write_text(json.dumps(content))
    plan = plan_acquisition(datalist, make_model(), path, private=[private])
    assert plan.asked == 1
    assert ["in folders of private data" in line for line in plan.refused].count(True) == 1
    assert ["pixels of the private image" in line for line in plan.refused].count(True) == 3


def test_a_private_datalist_may_have_any_splits(tmp_path):
    private = write_public(tmp_path / "clinic", [], public=False, testing=[3])
    guard = PrivacyGuard(read_datalist(write_public(tmp_path / "public", [1])), [private])
    with pytest.raises(InputError, match="in folders of private data"):
        guard.check_places([str(tmp_path / "clinic/images/testing-000.nii.gz")])
