"""Which identifying elements a DICOM file still carries, of those of the basic profile (PS3.15, annex E).

The profile has more than 600 elements. UIDs, codes, identifiers of procedures, places by GPS and what belongs to
radiotherapy, microscopy and structured reports are not looked for here: ``fedhelp data pull --anonymise`` deals with
all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_med.transforms.dicom_file import quiet, read_dataset

IDENTIFYING = frozenset((
    "AccessionNumber", "AcquisitionComments", "AcquisitionContextSequence", "AdditionalPatientHistory",
    "AddressTrial", "AdmissionID", "AdmittingDate", "AdmittingDiagnosesDescription", "AdmittingTime", "Allergies",
    "AuthorObserverSequence", "BranchOfService", "CameraOwnerName", "ClinicalTrialSubjectID",
    "ConsultingPhysicianName", "ContentCreatorName", "CountryOfResidence", "CurrentObserverTrial",
    "CurrentPatientLocation", "CustodialOrganizationSequence", "DetectorID", "DeviceSerialNumber",
    "DischargeDiagnosisDescription", "DistributionAddress", "DistributionName", "EthnicGroup", "EthnicGroups",
    "GantryID", "HumanPerformerName", "HumanPerformerOrganization", "ImageComments", "InstitutionAddress",
    "InstitutionCodeSequence", "InstitutionName", "InstitutionalDepartmentName", "InsurancePlanIdentification",
    "InterpretationAuthor", "InterpretationRecorder", "InterpretationTranscriber", "IssuerOfPatientID",
    "LastMenstrualDate", "MedicalAlerts", "MedicalRecordLocator", "MilitaryRank", "NameOfPhysiciansReadingStudy",
    "NamesOfIntendedRecipientsOfResults", "Occupation", "OperatorIdentificationSequence", "OperatorsName",
    "OrderCallbackPhoneNumber", "OrderCallbackTelecomInformation", "OrderEnteredBy", "OtherPatientIDs",
    "OtherPatientIDsSequence", "OtherPatientNames", "PatientAddress", "PatientBirthDate", "PatientBirthName",
    "PatientBirthTime", "PatientComments", "PatientID", "PatientInstitutionResidence", "PatientMotherBirthName",
    "PatientName", "PatientReligiousPreference", "PatientTelecomInformation", "PatientTelephoneNumbers",
    "PerformedLocation", "PerformedStationName", "PerformingPhysicianIdentificationSequence",
    "PerformingPhysicianName", "PersonAddress", "PersonIdentificationCodeSequence", "PersonName",
    "PersonTelecomInformation", "PersonTelephoneNumbers", "PhysicianApprovingInterpretation", "PhysiciansOfRecord",
    "PhysiciansReadingStudyIdentificationSequence", "PlateID", "PregnancyStatus", "ProtocolName", "ROIInterpreter",
    "ReferringPhysicianAddress", "ReferringPhysicianName", "ReferringPhysicianTelephoneNumbers", "RegionOfResidence",
    "RequestAttributesSequence", "RequestedProcedureComments", "RequestedProcedureDescription", "RequestingPhysician",
    "RequestingService", "ResponsibleOrganization", "ResponsiblePerson", "ReviewerName",
    "ScheduledPerformingPhysicianName", "ScheduledStationName", "SmokingStatus", "SpecialNeeds", "StationName",
    "StudyComments", "StudyID", "TelephoneNumberTrial", "TextString", "VerbalSourceTrial", "VerifyingObserverName",
    "VerifyingOrganization", "VisitComments",
))  # fmt: skip
"""Elements of table E.1-1 that name a person, a study, an institution, a device or a place, or comment on them.

The privacy guard before a foundation model refuses what has one of them. It leaves ``TEXTS``, ``PERSON`` and ``DATES``
alone: public collections keep them, and of a file only the pixels are sent."""

PSEUDONYMS = frozenset(("AccessionNumber", "ClinicalTrialSubjectID", "PatientID", "PatientName", "StudyID"))
"""Those of them that the profile replaces by a value of its own in a file that says that it is de-identified."""

TEXTS = frozenset((
    "AcquisitionContextDescription", "AcquisitionDeviceProcessingDescription", "AcquisitionProtocolDescription",
    "ClinicalTrialSeriesDescription", "ClinicalTrialTimePointDescription", "CommentsOnRadiationDose",
    "CommentsOnThePerformedProcedureStep", "ContributionDescription", "DerivationDescription", "FrameComments",
    "IdentifyingComments", "ImagePresentationComments", "ImagingServiceRequestComments", "Impressions",
    "InterpretationDiagnosisDescription", "InterpretationText", "LabelText", "ModifiedImageDescription",
    "PatientState", "PerformedProcedureStepDescription", "PreMedication", "ReasonForStudy",
    "ReasonForTheImagingServiceRequest", "ReasonForTheRequestedProcedure", "ReasonForVisit",
    "RequestedSeriesDescription", "ResultsComments", "ScheduledProcedureStepDescription", "SeriesDescription",
    "ServiceEpisodeDescription", "StudyDescription", "TextComments",
))  # fmt: skip
"""Descriptions and comments of table E.1-1, in which people write names, diagnoses and dates all the same."""

PERSON = frozenset(("PatientAge", "PatientSex", "PatientSexNeutered", "PatientSize", "PatientWeight"))
"""What the table removes since several of them together can single out a person."""

DATES = frozenset((
    "AcquisitionDate", "AcquisitionDateTime", "AcquisitionTime", "ContentDate", "ContentTime",
    "InstanceCreationDate", "InstanceCreationTime", "OverlayDate", "OverlayTime", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "SeriesDate", "SeriesTime", "StudyDate", "StudyTime",
))  # fmt: skip
"""Dates and times, which the basic profile removes too and the option of longitudinal data keeps."""

KINDS = {"identity": IDENTIFYING, "text": TEXTS, "person": PERSON, "date": DATES}

PIXELS = frozenset(("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


@dataclass(frozen=True, order=True)
class Finding:
    """An identifying element that has a value.

    Attributes:
        keyword: of the element; ``PrivateElements``, ``BurnedInAnnotation`` or ``OverlayData`` for those.
        where: path of the sequences that it lies in, or empty.
        kind: ``identity``, ``text``, ``person``, ``date``, ``private``, ``pixels``.
    """

    keyword: str
    where: str
    kind: str


def identifying_elements(source: Path | Any, *, dates: bool = True) -> list[Finding]:
    """List what a DICOM file still says about a person.

    The list names elements, never their values. An empty value is no finding; one of ``PSEUDONYMS`` is a finding
    unless the file declares ``PatientIdentityRemoved`` (0012,0062). Inside sequences it always is.

    Args:
        source: a file, or a pydicom dataset.
        dates: count dates and times.

    Raises:
        ImageError: the file cannot be read.
    """
    dataset = read_dataset(source) if isinstance(source, Path) else source
    declared = _says_yes(dataset, "PatientIdentityRemoved")
    with quiet():
        findings = set(_search(dataset, "", dates))
    if declared:
        findings -= {Finding(keyword, "", "identity") for keyword in PSEUDONYMS}
    if _says_yes(dataset, "BurnedInAnnotation"):
        findings.add(Finding("BurnedInAnnotation", "", "pixels"))
    return sorted(findings)


def _search(dataset: Any, where: str, dates: bool) -> Iterator[Finding]:
    for element in dataset:
        if element.tag.is_private:
            yield Finding("PrivateElements", where, "private")
            continue
        keyword = str(element.keyword)
        if keyword in PIXELS:
            continue
        if element.tag.group & 0xFF01 == 0x6000 and element.tag.element == 0x3000:
            yield Finding("OverlayData", where, "pixels")
        if not _has_value(element):
            continue
        for kind, keywords in KINDS.items():
            if keyword in keywords and (dates or kind != "date"):
                yield Finding(keyword, where, kind)
        if element.VR == "SQ":
            for item in element.value:
                yield from _search(item, f"{where}{keyword}.", dates)


def _has_value(element: Any) -> bool:
    value = element.value
    return value is not None and str(value).strip() != "" and not (element.VR == "SQ" and len(value) == 0)


def _says_yes(dataset: Any, keyword: str) -> bool:
    return str(dataset.get(keyword, "")).strip().upper() == "YES"
