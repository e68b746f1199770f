import pytest
from dicom_samples import basic, item, uid, write_radiograph
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.uid import UID

from fedhelp_med.transforms import Finding, identifying_elements
from fedhelp_med.transforms.identity import DATES, IDENTIFYING, PERSON, TEXTS


def keywords(findings):
    return {finding.where + finding.keyword for finding in findings}


def test_names_what_is_left_and_never_its_value():
    ds = basic(UID("1.2.3"), "CT", "ID-17", uid("a"), 0)
    ds.StudyDate, ds.InstitutionName, ds.AccessionNumber = "20240101", "St. Anna", ""
    ds.StudyDescription, ds.PatientAge, ds.PatientSex = "knee of Anna", "040Y", ""
    ds.RequestAttributesSequence = item(ScheduledProcedureStepID="7")
    ds.ReferencedStudySequence = item(PatientBirthDate="19500101")
    ds.add_new(0x00091001, "LO", "private")
    ds.BurnedInAnnotation = "YES"
    ds.add_new(0x60003000, "OW", b"\0\0")
    found = identifying_elements(ds)
    assert keywords(found) == {
        "PatientID",
        "PatientName",
        "StudyDate",
        "InstitutionName",
        "SeriesDescription",
        "StudyDescription",
        "PatientAge",
        "RequestAttributesSequence",
        "ReferencedStudySequence.PatientBirthDate",
        "PrivateElements",
        "BurnedInAnnotation",
        "OverlayData",
    }
    kinds = {finding.keyword: finding.kind for finding in found}
    assert kinds["StudyDescription"] == kinds["SeriesDescription"] == "text" and kinds["PatientAge"] == "person"
    assert Finding("StudyDate", "", "date") in found
    assert not any("Anna" in str(finding) or "ID-17" in str(finding) for finding in found)
    assert "StudyDate" not in keywords(identifying_elements(ds, dates=False))


def test_a_declared_pseudonym_is_no_finding(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", edit=lambda _, ds: setattr(ds, "PatientIdentityRemoved", "YES"))
    assert identifying_elements(path) == [Finding("SeriesDescription", "", "text")]
    ds = basic(UID("1.2.3"), "CT", "ID-17", uid("a"), 0)
    del ds.SeriesDescription
    ds.PatientIdentityRemoved, ds.AccessionNumber, ds.StudyID, ds.ClinicalTrialSubjectID = "YES", "A1", "1", "S-1"
    assert identifying_elements(ds) == []
    ds.ReferencedStudySequence = item(PatientID="ID-17")
    assert keywords(identifying_elements(ds)) == {"ReferencedStudySequence.PatientID"}
    path = write_radiograph(tmp_path / "y.dcm")
    assert keywords(identifying_elements(path)) == {"PatientID", "PatientName", "SeriesDescription"}


def test_every_name_of_a_person_in_the_profile_is_looked_for():
    table = pytest.importorskip("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")
    profile = {tag for tag in table.ALL_TAGS if len(tag) == 2 and keyword_for_tag(tag)}
    names = {keyword_for_tag(tag) for tag in profile if dictionary_VR(tag) == "PN"} - {"SelectorPNValue"}
    assert names <= IDENTIFYING
    for keywords in (IDENTIFYING, TEXTS, PERSON, DATES):
        unknown = {keyword for keyword in keywords if tag_for_keyword(keyword)} - set(map(keyword_for_tag, profile))
        assert not unknown, unknown
