"""Class labels from a CSV, or from the names of folders."""

import csv
import io
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import patient_key
from fedhelp_med.data.studies import Study, stem, with_patient
from fedhelp_med.data.walk import Rejected

KEYS = {
    "file": ("file", "filename", "image", "path"),  # not `name`, which is as often a person's
    "series": ("series", "seriesinstanceuid", "series_uid"),
    "study": ("study", "studyinstanceuid", "study_uid"),
    "patient": ("patient", "patientid", "patient_id", "subject"),
}
"""What a row may be about, the most precise first, and how its column may be called."""

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "holdout"}
"""Folders of these names hold somebody's splits, not classes."""

LABEL = ("label", "class", "diagnosis", "target")


@dataclass
class Labelled:
    """Studies with their labels.

    Attributes:
        studies: with a class name each, and the patient that the table names.
        rejected: studies without a usable label, and rows without a study.
        notes: what a person should know.
    """

    studies: list[tuple[Study, str]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    line: int
    key: str
    label: str
    patient: str


def labels_from_table(path: Path, studies: Sequence[Study], root: Path) -> Labelled:
    """Give studies the labels of a CSV.

    The table has a column ``label`` and one of ``file``, ``series``, ``study``, ``patient``; the most precise one
    counts. A file is named by its path from the scanned folder, or by its name. With another key a column ``patient``
    says whose image it is.

    Raises:
        InputError: no such table, or one without these columns.
    """
    kind, rows = _read(path)
    by_key: dict[str, list[_Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    result = Labelled()
    used: set[str] = set()
    names = _names(studies) if kind == "file" else {}
    for study in studies:
        keys = [key for key in _keys(kind, study, root, names) if key in by_key]
        used.update(keys)
        found = [row for key in keys for row in by_key[key]]
        labels = {row.label for row in found}
        if len(labels) == 1 and "" not in labels:
            named = with_patient(study, found[0].patient) if found[0].patient else study
            result.studies.append((named, found[0].label))
            continue
        if not found:
            reason = f"no row for it in {path.name} (by {kind}); add one, or leave the image out"
        elif len(labels) > 1:
            lines = ", ".join(str(row.line) for row in found)
            reason = f"{path.name} gives it several labels (rows {lines}); keep one"
        else:
            reason = f"its label in {path.name} (row {found[0].line}) is empty; write one"
        result.rejected += [Rejected(file, reason) for file in study.files]
    for key, unused in by_key.items():
        if key not in used:
            result.rejected.append(
                Rejected(path, f"row {unused[0].line}: no image with the {kind} {unused[0].key!r} was found")
            )
    return result


def labels_from_folders(studies: Sequence[Study], root: Path, declared: Sequence[str] | None = None) -> Labelled:
    """Give studies the name of their topmost folder below the scanned one as label.

    Folders that hold everything, and those of somebody else's splits (``train``, ``test``), are no classes: the folders
    in them are.

    Args:
        studies: to label.
        root: the scanned folder.
        declared: names of classes, at which the search for the folders of classes ends.

    Raises:
        InputError: folders of splits beside others.
    """
    result = Labelled()
    folders = [
        list(path.relative_to(root).parts[:-1]) if path.is_relative_to(root) else []
        for path in (study.files[0] for study in studies)
    ]
    result.notes += _descend(folders, {name.strip().casefold() for name in declared or ()})
    for study, parts in zip(studies, folders, strict=True):
        if parts:
            result.studies.append((study, parts[0]))
        else:
            reason = "lies in no folder, so it has no class; put it into the folder of its class"
            result.rejected += [Rejected(file, reason) for file in study.files]
    return result


def _descend(folders: Sequence[list[str]], declared: Container[str]) -> list[str]:
    """Take the levels that are no classes off the paths of folders, in place; return what to tell of them."""
    notes: list[str] = []
    while True:
        tops = {parts[0] for parts in folders if parts}
        splits = {top for top in tops if top.strip().casefold() in SPLIT_NAMES}
        shared = len(tops) == 1 and any(len(parts) > 1 for parts in folders)
        if not tops or any(top.strip().casefold() in declared for top in tops) or not (splits or shared):
            return notes
        if splits and splits != tops and len(tops) > 1:
            shown = f"{', '.join(sorted(splits))} beside {', '.join(sorted(tops - splits)[:3])}"
            raise InputError(
                f"--labels folders: {shown}: folders of splits beside others; scan a folder that holds the folders of "
                "the classes, or name the classes with --classes"
            )
        if splits:
            names = ", ".join(sorted(splits))
            notes.append(f"the folders {names} are no classes and not used as splits: patients are divided anew")
        else:
            only = tops.pop()
            notes.append(
                f"all images lie in the folder {only}: the folders in it are the classes; if it is one itself, name it "
                "with --classes"
            )
        for parts in folders:
            del parts[:1]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return names once each, sorted; of several spellings that differ in capitals the most frequent one."""
    spellings: dict[str, Counter[str]] = {}
    for name in names:
        spellings.setdefault(name.strip().casefold(), Counter())[name.strip()] += 1
    return [min(counts, key=lambda name: (-counts[name], name)) for _, counts in sorted(spellings.items())]


def class_names(labels: Sequence[str], declared: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes by index.

    Args:
        labels: all that were found.
        declared: the names that the user wants, in this order.

    Raises:
        InputError: numbers that are not 0, 1, 2, ...
    """
    if declared is not None:
        return tuple(declared)
    found = distinct_names(labels)
    if found and all(label.isdecimal() for label in found):
        highest = max(int(label) for label in found)
        if highest >= 1000:
            raise InputError(f"labels: {highest} is no class index; write 0, 1, 2, ... or names")
        return tuple(str(index) for index in range(highest + 1))
    return tuple(found)


def class_index(label: str, classes: Sequence[str]) -> int | None:
    """Return a label's index, by name or by number; None for a label that is no class."""
    for index, name in enumerate(classes):
        if label.strip().casefold() == name.strip().casefold():
            return index
    return int(label) if label.isdecimal() and int(label) < len(classes) else None


def _read(path: Path) -> tuple[str, list[_Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: this table of labels does not exist; correct the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV in UTF-8 ({error}); save it as one") from None
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    table = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    header = [name.strip().casefold() for name in table[0]] if table else []
    columns = {kind: _column(header, names) for kind, names in KEYS.items()}
    kind = next((kind for kind in KEYS if columns[kind] is not None), None)
    label = _column(header, LABEL)
    if kind is None or label is None:
        found = ", ".join(header) or "nothing"
        raise InputError(
            f"{path}: has the columns {found}; it needs `label`, and one of `file`, `series`, `study`, `patient`"
        )
    rows = []
    for line, cells in enumerate(table[1:], start=2):
        if any(cell.strip() for cell in cells):
            cell = dict(enumerate(part.strip() for part in cells))
            owner = cell.get(columns["patient"], "") if columns["patient"] is not None and kind != "patient" else ""
            key = cell.get(columns[kind] or 0, "")
            rows.append(_Row(line, _normal(kind, key), cell.get(label, ""), owner))
    return kind, rows


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _normal(kind: str, key: str) -> str:
    return patient_key(key) if kind == "patient" else key.replace("\\", "/").removeprefix("./")


def _names(studies: Sequence[Study]) -> Mapping[str, int]:
    """How often a name stands for a study: a name that stands for several is no key."""
    counts: dict[str, int] = {}
    for study in studies:
        for name in {study.files[0].name, stem(study.files[0])}:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _keys(kind: str, study: Study, root: Path, names: Mapping[str, int]) -> list[str]:
    if kind == "patient":
        return [patient_key(study.patient)]
    if kind != "file":
        return [study.series if kind == "series" else study.study]
    path = study.files[0]
    keys = {name for name in (path.name, stem(path)) if names[name] == 1}
    if path.is_relative_to(root):
        relative = path.relative_to(root)
        keys.add(relative.as_posix())
        if len(study.files) > 1:
            keys.add(relative.parent.as_posix())
    return sorted(keys)
