"""What all demo data has in common: its folders, its files and its reuse.

``sites/NAME/datalist.json`` (training, validation, testing), ``public/datalist.json``, ``foundation/datalist.json``
(training, validation) and ``demo.json``, which says what they were made from.
"""

import json
import logging
import shutil
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import replacing_folder, write_json
from fedhelp_med.data.datalist import read_datalist, write_datalist

logger = logging.getLogger(__name__)

MARKER = "demo.json"
FOLDERS = ("sites", "public", "foundation")


@dataclass(frozen=True)
class DemoSite:
    """A site: its name, its role (``small`` or ``large``) and its datalist."""

    name: str
    role: str
    datalist: Path


@dataclass(frozen=True)
class DemoData:
    """The datalists of a demo federation: its sites, the public set and the foundation model's own set."""

    sites: list[DemoSite]
    public: Path
    foundation: Path


@dataclass(frozen=True)
class Study:
    """One image to be written: a file, or the files of a DICOM series by name, which get a folder.

    Its label is a class index, or the content of a mask file.
    """

    content: bytes | Mapping[str, bytes]
    patient: str
    label: int | bytes | None = None


@dataclass(frozen=True)
class StudySet:
    """A datalist to be written; the studies may be made lazily.

    Attributes:
        folder: where, below the demo's folder.
        name: of the datalist.
        classes: class names by index, None for an unlabelled set.
        splits: studies by split.
        suffix: of the image and mask files.
    """

    folder: str
    name: str
    classes: Sequence[str] | None
    splits: Mapping[str, Iterable[Study]]
    suffix: str


class Counts(TypedDict, total=False):
    """How many sites a demo has, and how many studies each part of it.

    Attributes:
        small_sites: clinics.
        large_sites: hospitals.
        small_training: training studies per clinic.
        large_training: training studies per hospital.
        small_validation: validation studies per clinic.
        large_validation: validation studies per hospital.
        testing: test studies per site.
        public: public studies.
        foundation: labelled studies of the foundation model.
        foundation_validation: its validation studies, where they are counted apart.
    """

    small_sites: int
    large_sites: int
    small_training: int
    large_training: int
    small_validation: int
    large_validation: int
    testing: int
    public: int
    foundation: int
    foundation_validation: int


def plan_sites(defaults: Counts, given: Counts) -> tuple[dict[str, str], dict[str, int]]:
    """Return the roles of the sites by name, and the numbers of studies: ``given`` ones before ``defaults``.

    Raises:
        InputError: a count is out of range.
        TypeError: there is no such count.
    """
    if unknown := sorted(given.keys() - defaults.keys()):
        raise TypeError(f"{unknown[0]}: there is no such count; known are {', '.join(defaults)}")
    counts: dict[str, int] = {key: count for key, count in {**defaults, **given}.items() if isinstance(count, int)}
    roles = site_roles(counts.pop("small_sites"), counts.pop("large_sites"))
    check_counts(**counts)
    return roles, counts


def site_roles(small: int, large: int) -> dict[str, str]:
    """Site names and roles: clinic-a, clinic-b, ... are small, hospital-a, ... are large.

    Raises:
        InputError: a number of sites that the alphabet cannot name, or none at all.
    """
    letters = string.ascii_lowercase
    for key, count in (("small_sites", small), ("large_sites", large)):
        if not 0 <= count <= len(letters):
            raise InputError(f"{key}: {count} is not valid; choose 0 to {len(letters)}")
    if small + large == 0:
        raise InputError("small_sites and large_sites: both are 0; choose at least one site")
    roles = {f"clinic-{letter}": "small" for letter in letters[:small]}
    return roles | {f"hospital-{letter}": "large" for letter in letters[:large]}


def stores_series(site: str) -> bool:
    """Whether a demo site stores DICOM series: every second site of a role does, the others store NIfTI."""
    return string.ascii_lowercase.find(site[-1]) % 2 == 1


def check_counts(**counts: int) -> None:
    """Refuse counts of studies that are not at least 2 (one of each class).

    Raises:
        InputError: naming the count.
    """
    for key, count in counts.items():
        if count < 2:
            raise InputError(f"{key}: {count} is not valid; choose 2 studies or more")


def build_demo(
    folder: Path, parameters: Mapping[str, Any], roles: Mapping[str, str], sets: Iterable[StudySet]
) -> DemoData:
    """Write the sets of studies, or reuse a complete earlier demo with the same parameters.

    Args:
        folder: the demo's folder. Its `FOLDERS` are replaced if an earlier demo wrote them.
        parameters: everything that the bytes depend on, as JSON.
        roles: role by site name.
        sets: one for every site, the public set and the foundation model; not touched when reusing.

    Raises:
        InputError: the folder holds data that no demo wrote.
    """
    data = DemoData(
        [DemoSite(name, role, folder / "sites" / name / "datalist.json") for name, role in roles.items()],
        folder / "public" / "datalist.json",
        folder / "foundation" / "datalist.json",
    )
    if _is_complete(folder, parameters, data):
        logger.info("%s: the demo data is there and is used again", folder)
        return data
    _claim(folder)
    for study_set in sets:
        _write_set(folder, study_set)
    write_json(folder / MARKER, {"complete": True, "parameters": dict(parameters)})
    return data


def _is_complete(folder: Path, parameters: Mapping[str, Any], data: DemoData) -> bool:
    expected = {"complete": True, "parameters": json.loads(json.dumps(dict(parameters)))}
    try:
        if json.loads((folder / MARKER).read_text(encoding="utf-8")) != expected:
            return False
        for datalist in (*(site.datalist for site in data.sites), data.foundation):
            read_datalist(datalist)
        return read_datalist(data.public).public
    except (OSError, ValueError, InputError):
        return False


def _claim(folder: Path) -> None:
    """Mark the folder as the demo's, unfinished, and empty what an earlier demo left."""
    if not (folder / MARKER).exists():
        foreign = [name for name in FOLDERS if (folder / name).exists()]
        if foreign:
            raise InputError(
                f"{folder / foreign[0]}: already there, and not written by the demo; choose another folder"
            )
    write_json(folder / MARKER, {"complete": False})
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _write_image(folder: Path, name: str, suffix: str, content: bytes | Mapping[str, bytes]) -> str:
    if isinstance(content, bytes):
        name += suffix
        (folder / name).write_bytes(content)
        return name
    (folder / name).mkdir()
    for file, slice_content in content.items():
        (folder / name / file).write_bytes(slice_content)
    return name


def _write_set(folder: Path, study_set: StudySet) -> None:
    target = folder / study_set.folder
    with replacing_folder(target) as temporary:
        (temporary / "images").mkdir()
        splits: dict[str, list[dict[str, Any]]] = {}
        for split, studies in study_set.splits.items():
            splits[split] = []
            for index, study in enumerate(studies):
                image = _write_image(temporary, f"images/{split}-{index:04d}", study_set.suffix, study.content)
                item: dict[str, Any] = {"image": image, "patient": study.patient}
                if isinstance(study.label, bytes):
                    item["label"] = f"masks/{split}-{index:04d}{study_set.suffix}"
                    (temporary / "masks").mkdir(exist_ok=True)
                    (temporary / item["label"]).write_bytes(study.label)
                elif study.label is not None:
                    item["label"] = study.label
                splits[split].append(item)
        write_datalist(
            temporary / "datalist.json",
            name=study_set.name,
            classes=study_set.classes,
            splits=splits,
            public=study_set.folder == "public",
        )
    logger.info("%s: %s studies", target, ", ".join(f"{len(items)} {split}" for split, items in splits.items()))
