import io

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.pseudonyms import Pseudonyms, read_key
from fedhelp_med.data.simulated_scan import Scan, as_series
from fedhelp_med.transforms import identifying_elements

KEY = b"k" * 32
SECRET = "Musterfrau"


def instance():
    """A slice that says in every way who it is of."""
    content = as_series(Scan(np.zeros((1, 4, 4), np.int16), (1, 1, 1), (0, 0, 0)), SECRET, SECRET, 0)["0001.dcm"]
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.PatientName = f"{SECRET}^Erika"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.SeriesDate = "19640812", "20240102", "20240102"
    dataset.InstitutionAddress = dataset.PatientComments = dataset.StudyDescription = f"of {SECRET}"
    dataset.OtherPatientIDs = [SECRET, "2"]
    block = dataset.private_block(0x0011, "MAKER", create=True)
    block.add_new(1, "LO", SECRET)
    request = Dataset()
    request.RequestedProcedureDescription = SECRET
    dataset.RequestAttributesSequence = Sequence([request])
    reference = Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    reference.PatientName = SECRET
    dataset.SourceImageSequence = Sequence([reference])
    dataset.add_new(0x60003000, "OW", b"\1\1")
    dataset.add_new(0x60000022, "LO", SECRET)
    dataset.add_new(0x60004000, "LT", SECRET)
    dataset.add_new(0x50003000, "OW", b"\1\1")
    dataset.file_meta.SourceApplicationEntityTitle = "ATMUSTERFRAU"
    dataset.preamble = SECRET.encode().ljust(128, b"\0")
    return dataset


def anonymous(key=KEY):
    dataset = instance()
    Pseudonyms(key).apply(dataset)
    return dataset


def test_nothing_is_left_that_names_the_patient():
    dataset = anonymous()
    assert identifying_elements(dataset, dates=False) == []
    assert "StudyDescription" not in dataset and "RequestAttributesSequence" not in dataset
    assert not dataset.PatientBirthDate and not dataset.StudyDate
    assert dataset.SeriesDate == "19000101"  # a date that some kinds of image must have
    assert all(not element.tag.is_private for element in dataset)
    assert not any(element.tag.group >> 8 in (0x50, 0x60) for element in dataset)
    assert "SourceApplicationEntityTitle" not in dataset.file_meta
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_the_name_is_nowhere_in_the_bytes():
    dataset = anonymous()
    dataset.preamble = b"\0" * 128
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert SECRET.encode() not in buffer.getvalue()
    assert b"Erika" not in buffer.getvalue()


def test_pixels_and_geometry_stay():
    before, after = instance(), anonymous()
    for keyword in ("PixelData", "ImagePositionPatient", "PixelSpacing", "RescaleSlope", "SOPClassUID", "Modality"):
        assert after[keyword].value == before[keyword].value


def test_references_still_refer():
    dataset = anonymous()
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID != instance().SOPInstanceUID
    assert dataset.SourceImageSequence[0].ReferencedSOPClassUID == dataset.SOPClassUID


def test_the_same_key_gives_the_same_pseudonyms_and_another_key_others():
    assert anonymous() == anonymous()
    one, other = anonymous(), anonymous(b"o" * 32)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value != other[keyword].value


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="0123456789.", min_size=1, max_size=64), st.binary(min_size=32, max_size=40))
def test_pseudonyms_are_valid(original, key):
    pseudonyms = Pseudonyms(key)
    assert UID(pseudonyms.uid(original)).is_valid
    assert len(pseudonyms.patient(original)) == 16
    assert pseudonyms.patient(f" {original} ") == pseudonyms.patient(original)


def test_every_test_image_of_pydicom_can_be_made_anonymous(tmp_path):
    names = (
        "CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "examples_palette.dcm", "examples_ybr_color.dcm",
        "rtdose.dcm", "rtplan.dcm", "reportsi.dcm", "liver_1frame.dcm", "test-SR.dcm", "waveform_ecg.dcm",
    )  # fmt: skip
    done = 0
    for name in names:
        path = pydicom.data.get_testdata_file(name, download=False)
        if path is None:
            continue
        dataset = pydicom.dcmread(path)
        Pseudonyms(KEY).apply(dataset)
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        assert identifying_elements(tmp_path / name, dates=False) == [], name
        done += 1
    assert done >= 7


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "key"
    key = read_key(path)
    assert len(key) == 32 and read_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "short").write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes are no key"):
        read_key(tmp_path / "short")


def test_spellings_of_a_patient_have_one_pseudonym():
    names = Pseudonyms(KEY)
    assert len({names.patient(text) for text in ("Smith 01", "SMITH 01", " smith01")}) == 1
    assert names.patient("Smith 01") != names.patient("Smith 02")
