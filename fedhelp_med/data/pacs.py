"""Pulling series from a picture archive into a study folder: ``OUT/STUDY/SERIES/INSTANCE.dcm``.

What asks the archive is in ``pacs_web`` (DICOMweb) and ``pacs_dimse`` (the classic C-FIND, C-GET and C-MOVE). Files
appear whole or not at all and what is there is not fetched again, so an interrupted pull goes on by being repeated.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import replacing
from fedhelp_med.data.pseudonyms import Pseudonyms
from fedhelp_med.transforms.dicom_file import is_secondary_capture

SERIES_KEYS = (
    "SeriesInstanceUID", "Modality", "SeriesDescription", "SeriesNumber", "BodyPartExamined", "ProtocolName",
)  # fmt: skip
STUDY_KEYS = (
    "StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyDescription", "StudyID",
    "ModalitiesInStudy",
)  # fmt: skip
UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)+")  # leading zeros are wrong, but they occur
MAY_SHOW_TEXT = ("US", "IVUS", "SC", "OT", "XC", "GM", "ES", "DX", "CR", "MG", "RF", "XA", "IO", "PX", "SR", "DOC")
"""Modalities whose pixels (or whose whole content) often name the patient."""


@dataclass(frozen=True)
class Query:
    """What is wanted, by DICOM keyword; ``*`` and ``?`` match as in DICOM, a date range is ``20240101-20240630``.

    Args:
        study: keys of the study level.
        series: keys of the series level.
    """

    study: Mapping[str, str]
    series: Mapping[str, str]


@dataclass(frozen=True)
class RemoteSeries:
    """A series that an archive holds."""

    study: str
    series: str
    modality: str = ""
    description: str = ""


@dataclass(frozen=True)
class RemoteInstance:
    """An instance that an archive holds; the class is empty where the archive does not tell."""

    uid: str
    sop_class: str = ""


Store = Callable[[Dataset], None]


class Archive(Protocol):
    """What can be pulled from."""

    def find(self, query: Query) -> Iterator[RemoteSeries]:
        """Yield the series that match.

        Raises:
            InputError: the archive refuses us, or its address is wrong.
            FedHelpError: it does not answer, or its answer is not usable.
        """

    def instances(self, series: RemoteSeries) -> list[RemoteInstance]:
        """Return what a series holds; raises as ``find`` does."""

    def fetch(self, series: RemoteSeries, instances: Sequence[RemoteInstance], whole: bool, store: Store) -> None:
        """Give each of these instances (``whole``: all of the series) to ``store`` as it arrives.

        Raises as ``find`` does, and what ``store`` raises.
        """

    def close(self) -> None:
        """End the connection."""


@dataclass
class PullReport:
    """What a pull did.

    Attributes:
        series: how many matched.
        fetched: instances that were written.
        present: instances that were there already.
        failed: reasons by series UID; the instances of these series are not all there.
        look_at: folders of series whose pixels may show text; it is not looked for.
    """

    series: int = 0
    fetched: int = 0
    present: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    look_at: list[Path] = field(default_factory=list)

    def point_at(self, folder: Path) -> None:
        """Add a folder to those to look at, once."""
        if folder not in self.look_at:
            self.look_at.append(folder)


def parse_query(matches: Iterable[str]) -> Query:
    """Read ``KEYWORD=VALUE`` texts.

    Raises:
        InputError: no text at all, a keyword that archives are not asked by, or an empty value.
    """
    study: dict[str, str] = {}
    series: dict[str, str] = {}
    for match in matches:
        key, _, value = (part.strip() for part in match.partition("="))
        level = study if key in STUDY_KEYS else series if key in SERIES_KEYS else None
        if level is None:
            known = ", ".join((*STUDY_KEYS, *SERIES_KEYS))
            raise InputError(f"--match {match}: {key!r} is not a key that archives are asked by; choose of {known}")
        if not value:
            raise InputError(f"--match {match}: has no value; write {key}=VALUE")
        level[key] = value
    if not study and not series:
        raise InputError("--match: missing; say what to pull, e.g. --match PatientID=12345 --match Modality=MR")
    return Query(study, series)


def agrees(wanted: Mapping[str, str], found: Dataset) -> bool:
    """Whether an answer matches the query: archives may ignore keys that they do not know."""
    for key, pattern in wanted.items():
        value = found.get(key)
        texts = [str(entry) for entry in value] if isinstance(value, list | tuple | MultiValue) else [str(value or "")]
        if key not in found or key == "PatientName":  # not told, or matched by rules of its own
            continue
        if key == "StudyDate" and "-" in pattern:
            first, last = (part.strip() for part in pattern.split("-", 1))
            if not all((first or "0") <= text <= (last or "9") for text in texts):
                return False
        elif not any(fnmatchcase(text.strip(), choice) for text in texts for choice in pattern.split("\\")):
            return False
    return True


def answer_keys(keywords: Iterable[str], wanted: Mapping[str, str]) -> Dataset:
    """Return the identifier of a query: the keys that are wanted, and empty ones that are asked for."""
    identifier = Dataset()
    for key in (*keywords, *wanted):
        if tag_for_keyword(key) is not None:
            setattr(identifier, key, wanted.get(key, ""))
    return identifier


def pull(
    archive: Archive,
    query: Query,
    out: Path,
    pseudonyms: Pseudonyms | None = None,
    watch: Callable[[RemoteSeries, int, int], Any] = lambda series, missing, total: None,
) -> PullReport:
    """Fetch what matches and is not there yet; a series that fails does not stop the others.

    Args:
        archive: the source.
        query: what to fetch.
        out: the study folder.
        pseudonyms: makes every instance anonymous before anything is written.
        watch: is told of every series, how many of its instances are missing, and how many it has.

    Raises:
        InputError: the archive refuses us, or its address is wrong.
        FedHelpError: the archive cannot be searched.
    """
    report = PullReport()
    for series in archive.find(query):
        report.series += 1
        try:
            folder = out / _name(series.study, pseudonyms) / _name(series.series, pseudonyms)
            _pull_series(archive, series, folder, pseudonyms, report, watch)
        except InputError:
            raise  # the credentials, the address: no other series will do better
        except FedHelpError as error:
            report.failed[series.series] = str(error)
            continue
        if series.modality in MAY_SHOW_TEXT:
            report.point_at(folder)
    return report


def _pull_series(
    archive: Archive,
    series: RemoteSeries,
    folder: Path,
    pseudonyms: Pseudonyms | None,
    report: PullReport,
    watch: Callable[[RemoteSeries, int, int], Any],
) -> None:
    held = archive.instances(series)
    files = {instance.uid: folder / f"{_name(instance.uid, pseudonyms)}.dcm" for instance in held}
    missing = [instance for instance in held if not files[instance.uid].is_file()]
    report.present += len(held) - len(missing)
    watch(series, len(missing), len(held))
    wanted = {instance.uid for instance in missing}
    there = [files[instance.uid] for instance in held if instance.uid not in wanted]
    if any(is_secondary_capture(instance.sop_class) for instance in held) or any(map(_file_may_show_text, there)):
        report.point_at(folder)

    def store(dataset: Dataset) -> None:
        uid = str(dataset.get("SOPInstanceUID", ""))
        if uid in wanted:  # a server may send the whole series again
            shows = _may_show_text(dataset)
            _write(dataset, files[uid], pseudonyms)
            if shows:
                report.point_at(folder)
            wanted.discard(uid)
            report.fetched += 1

    if missing:
        archive.fetch(series, missing, len(missing) == len(held), store)
    if wanted:
        raise FedHelpError(f"{len(wanted)} of {len(held)} instances did not arrive; repeat the command to go on")


def _may_show_text(dataset: Dataset) -> bool:
    """Whether an instance of any modality is a capture of a screen, or declares what its pixels show."""
    declared = str(dataset.get("BurnedInAnnotation", "") or "").strip().upper() == "YES"
    return declared or is_secondary_capture(str(dataset.get("SOPClassUID", "")))


def _file_may_show_text(path: Path) -> bool:
    try:
        return _may_show_text(
            dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "BurnedInAnnotation"])
        )
    except (OSError, InvalidDicomError):
        return True  # not ours: look at it


def _write(dataset: Dataset, path: Path, pseudonyms: Pseudonyms | None) -> None:
    if pseudonyms is not None:
        try:
            pseudonyms.apply(dataset)
        except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            raise FedHelpError(f"an instance cannot be made anonymous ({error}); it is not written") from None
    dataset.preamble = b"\0" * 128  # it may hold anything, and what came over the network has none
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _name(uid: str, pseudonyms: Pseudonyms | None) -> str:
    if not UID_PATTERN.fullmatch(uid):  # it becomes part of a path
        raise FedHelpError(f"the archive calls something {uid!r}, which is not a UID; it is left out")
    return uid if pseudonyms is None else pseudonyms.uid(uid)
