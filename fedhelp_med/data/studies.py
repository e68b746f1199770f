"""Finding the images in a folder, a zip or a DICOMDIR, by their content."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhelp_med.data.complete import check_complete
from fedhelp_med.data.dicom_groups import group_dicom
from fedhelp_med.data.walk import Rejected, is_npz, list_files
from fedhelp_med.transforms.dicom_file import DicomFile, is_screen_capture, read_dicom_file, read_header
from fedhelp_med.transforms.errors import ImageError, NotAnImageError, reader_reason
from fedhelp_med.transforms.sniff import describe_unknown, kind_of

BIDS_SUBJECT = re.compile(r"(?:^|[/_.-])(sub-[A-Za-z0-9]+)")
SUFFIXES = re.compile(r"(\.nii)?\.[A-Za-z0-9]{1,5}$")
LABEL_OBJECTS = {"SEG": "seg", "RTSTRUCT": "rtstruct"}


@dataclass(frozen=True)
class Study:
    """One image: a file, or the files of a DICOM series.

    Attributes:
        kind: ``dicom``, ``nifti``, ``nrrd``, ``picture`` or ``medmnist``.
        files: of the image; a series' slices in the order of their positions.
        patient: the patient ID; for other files than DICOM the BIDS subject, else the file's name.
        study: Study Instance UID, or empty.
        series: Series Instance UID, or empty.
        modality: as DICOM writes it (CT, MR, DX, ...), or empty.
        description: of the series, or the file's name.
        instance: SOP Instance UID of a file that is an image of its own, or empty.
        patient_known: whether something says whose it is, not its file's name or its study alone.
        shows_patient: whether a file declares that its pixels name the patient (BurnedInAnnotation).
    """

    kind: str
    files: tuple[Path, ...]
    patient: str
    study: str = ""
    series: str = ""
    modality: str = ""
    description: str = ""
    instance: str = ""
    patient_known: bool = True
    shows_patient: bool = False


@dataclass(frozen=True)
class LabelObject:
    """A DICOM object that labels other images.

    Attributes:
        kind: ``seg`` or ``rtstruct``.
        path: the file.
        patient: the patient ID.
    """

    kind: str
    path: Path
    patient: str


@dataclass(frozen=True)
class Found:
    """What a source holds. Every file of it is in one of the three."""

    studies: tuple[Study, ...]
    labels: tuple[LabelObject, ...]
    rejected: tuple[Rejected, ...]


def find_studies(source: Path, unpack_to: Path | None = None) -> tuple[list[Study], list[Rejected]]:
    """Find the images in a source; nothing is dropped without a reason.

    Args:
        source: a folder, a zip, a DICOMDIR, or one file.
        unpack_to: a folder for the content of a zip.

    Returns:
        The images, and every other file with its reason.

    Raises:
        InputError: the source does not exist, or is a zip and there is no ``unpack_to``.

    Example:
        >>> studies, rejected = find_studies(Path("examination"))
        >>> [(study.kind, study.modality, len(study.files)) for study in studies], rejected
        ([('dicom', 'MR', 5)], [])
    """
    found = discover(source, unpack_to)
    labels = [Rejected(label.path, "a label (DICOM SEG or RTSTRUCT), not an image") for label in found.labels]
    return list(found.studies), [*found.rejected, *labels]


def discover(source: Path, unpack_to: Path | None = None, without: Sequence[Path] = ()) -> Found:
    """Find images and DICOM label objects in a source.

    Args:
        source: a folder, a zip, a DICOMDIR, or one file.
        unpack_to: a folder for the content of a zip.
        without: files and folders of a folder that are not looked at.

    Raises:
        InputError: the source does not exist, or is a zip and there is no ``unpack_to``.
    """
    source = Path(source)
    files, rejected = list_files(source, unpack_to)
    if source.is_dir():
        left_out = {path.absolute() for path in without}
        files = [path for path in files if not left_out & {path.absolute(), *path.absolute().parents}]
        rejected = [item for item in rejected if not left_out & {item.path.absolute(), *item.path.absolute().parents}]
    root = source if source.is_dir() else unpack_to if unpack_to is not None else source.parent
    return examine(files, rejected, root)


def examine(files: Sequence[Path], rejected: Sequence[Rejected], root: Path) -> Found:
    """Find the images among files.

    Args:
        files: to look at.
        rejected: what was left out before.
        root: the folder that they come from.
    """
    studies: list[Study] = []
    labels: list[LabelObject] = []
    refused = list(rejected)
    dicom: list[DicomFile] = []
    pairs = _pair_partners(files)
    for path in files:
        if path in pairs:
            continue
        try:
            kind = kind_of(path)
            if kind == "dicom":
                file = read_dicom_file(path)
                if is_screen_capture(file):
                    refused.append(Rejected(path, "a capture of a screen (a dose report, a protocol), not an image"))
                else:
                    dicom.append(file)
            elif kind in ("nifti", "nrrd", "picture"):
                check_complete(path, kind)
                studies.append(_plain(kind, path, root))
            elif kind == "zip" and is_npz(path):
                studies.append(_archive(path))
            elif kind == "zip":
                refused.append(Rejected(path, "a zip within the data; unpack it, or scan it by itself"))
            else:
                refused.append(Rejected(path, describe_unknown(path)))
        except NotAnImageError as error:
            label = _label_object(path)
            if label is None:
                refused.append(Rejected(path, error.reason))
            else:
                labels.append(label)
        except ImageError as error:
            refused.append(Rejected(path, error.reason))
        except OSError as error:
            refused.append(Rejected(path, f"cannot be opened ({error.strerror}); check its permissions"))
        except Exception as error:  # a library fell over damage that nobody foresaw: still one file, with its name
            refused.append(Rejected(path, f"cannot be read ({reader_reason(error)}); export it again"))
    series, unfit = _series(dicom)
    studies += series
    refused += unfit
    return Found(tuple(sorted(studies, key=lambda study: study.files)), tuple(labels), tuple(sorted(refused)))


def stem(path: Path) -> str:
    """A file's name without its extension, ``.nii.gz`` included."""
    return SUFFIXES.sub("", path.name.removesuffix(".gz")) or path.name


def with_patient(study: Study, patient: str) -> Study:
    """Return the same image of another patient."""
    return replace(study, patient=patient, patient_known=True)


def _series(files: Sequence[DicomFile]) -> tuple[list[Study], list[Rejected]]:
    groups, unfit = group_dicom(files)
    studies = [
        Study(
            "dicom",
            tuple(file.path for file in group.files),
            group.files[0].text("PatientID") or group.files[0].text("StudyInstanceUID"),
            group.files[0].text("StudyInstanceUID"),
            group.files[0].text("SeriesInstanceUID"),
            group.files[0].text("Modality"),
            " ".join(part for part in (group.files[0].text("SeriesDescription"), group.part) if part),
            group.files[0].text("SOPInstanceUID") if len(group.files) == 1 else "",
            bool(group.files[0].text("PatientID")),
            any(file.text("BurnedInAnnotation").upper() == "YES" for file in group.files),
        )
        for group in groups
    ]
    return studies, unfit


def _plain(kind: str, path: Path, root: Path) -> Study:
    relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    subject = BIDS_SUBJECT.search(relative)
    patient = subject.group(1) if subject else stem(path)
    return Study(kind, (path,), patient, description=stem(path), patient_known=subject is not None)


def _archive(path: Path) -> Study:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    if "train_images.npy" not in names:
        raise ImageError(path, "a NumPy archive, but not in MedMNIST's layout (train_images, train_labels, ...)")
    return Study("medmnist", (path,), "", description=path.stem)


def _label_object(path: Path) -> LabelObject | None:
    header = read_header(path)
    kind = LABEL_OBJECTS.get(str(header.get("Modality", "")))
    return None if kind is None else LabelObject(kind, path, str(header.get("PatientID", "") or ""))


def _pair_partners(files: Sequence[Path]) -> set[Path]:
    """The ``.img`` files that belong to a NIfTI ``.hdr``: they are read with it."""
    known = set(files)
    return {
        partner
        for path in files
        if path.name.lower().endswith((".hdr", ".hdr.gz"))
        for partner in [path.with_name(path.name.replace(".hdr", ".img").replace(".HDR", ".IMG"))]
        if partner in known and _is_pair(path)
    }


def _is_pair(path: Path) -> bool:
    try:
        return kind_of(path) == "nifti"
    except OSError:
        return False
