from dicom_samples import basic, item, uid, write_radiograph
from pydicom.uid import UID

from fedhelp_med.transforms import Finding, identifying_elements


def keywords(findings):
    return {finding.where + finding.keyword for finding in findings}


def test_names_what_is_left_and_never_its_value():
    ds = basic(UID("1.2.3"), "CT", "ID-17", uid("a"), 0)
    ds.StudyDate, ds.InstitutionName, ds.AccessionNumber = "20240101", "St. Anna", ""
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
        "RequestAttributesSequence",
        "ReferencedStudySequence.PatientBirthDate",
        "PrivateElements",
        "BurnedInAnnotation",
        "OverlayData",
    }
    assert Finding("StudyDate", "", "date") in found
    assert not any("Anna" in str(finding) or "ID-17" in str(finding) for finding in found)
    assert "StudyDate" not in keywords(identifying_elements(ds, dates=False))


def test_a_declared_pseudonym_is_no_finding(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", edit=lambda _, ds: setattr(ds, "PatientIdentityRemoved", "YES"))
    assert identifying_elements(path) == []
    ds = basic(UID("1.2.3"), "CT", "ID-17", uid("a"), 0)
    ds.PatientIdentityRemoved, ds.AccessionNumber, ds.StudyID, ds.ClinicalTrialSubjectID = "YES", "A1", "1", "S-1"
    assert identifying_elements(ds) == []
    ds.ReferencedStudySequence = item(PatientID="ID-17")
    assert keywords(identifying_elements(ds)) == {"ReferencedStudySequence.PatientID"}
    path = write_radiograph(tmp_path / "y.dcm")
    assert keywords(identifying_elements(path)) == {"PatientID", "PatientName"}
