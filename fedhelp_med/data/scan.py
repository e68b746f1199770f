"""``fedhelp data scan``: from a hard disk of studies to a datalist, with a reason for every file left out."""

import csv
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_text
from fedhelp_med.data.datalist import write_datalist
from fedhelp_med.data.labels_table import class_index, class_names, labels_from_folders, labels_from_table
from fedhelp_med.data.scan_files import ScanFiles, dicom_files
from fedhelp_med.data.scan_masks import masks_from_objects, masks_from_pattern
from fedhelp_med.data.splits import split_by_patient
from fedhelp_med.data.studies import Found, Study, discover, with_patient
from fedhelp_med.data.walk import Rejected

SPLITS = ("training", "validation", "testing")
FOLDERS = "folders"
Item = Mapping[str, Any]


@dataclass(frozen=True)
class ScanOptions:
    """What is wanted of a scan.

    Attributes:
        labels: a CSV, or ``folders``: the class is the folder's name; None without classes.
        masks: naming pattern of the masks; None without.
        split: shares of training, validation, testing in per cent; None: 70/15/15, of a public set all training,
            since nothing else of it is used.
        seed: of the split.
        classes: the names of the classes in their order; None: as found.
        patients: regular expression whose first group, found in a file's path, is the patient, of DICOM too; files
            whose path it does not match are left out.
        modality: only this DICOM modality.
        description: regular expression that a series' description must hold.
        name: of the datalist.
        public: declare that every image may leave the site.
    """

    labels: str | None = None
    masks: str | None = None
    split: str | None = None
    seed: int = 0
    classes: tuple[str, ...] | None = None
    patients: str | None = None
    modality: str | None = None
    description: str | None = None
    name: str | None = None
    public: bool = False


@dataclass
class ScanResult:
    """What a scan wrote.

    Attributes:
        datalist: the file.
        rejected_file: the CSV of what was left out.
        splits: the items.
        classes: names, or None.
        rejected: what was left out.
        notes: what a person should know.
    """

    datalist: Path
    rejected_file: Path
    splits: dict[str, list[Item]]
    classes: tuple[str, ...] | None
    rejected: list[Rejected]
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of images in the datalist."""
        return sum(len(items) for items in self.splits.values())


def scan(source: Path, out: Path, options: ScanOptions | None = None) -> ScanResult:
    """Find images and labels, divide them by patient, and write a datalist.

    Beside ``out`` come ``NAME.rejected.csv`` and, where something had to be unpacked, drawn or linked,
    ``NAME.files``.

    Args:
        source: a folder, a zip or a DICOMDIR.
        out: the datalist.
        options: what is wanted.

    Raises:
        InputError: wrong options, or no image that can be used.
    """
    options = options or ScanOptions()
    fractions = read_split(options.split if options.split is not None else "100" if options.public else "70/15/15")
    patterns = {
        name: _regex(name, getattr(options, name)) for name in ("patients", "description") if getattr(options, name)
    }
    if options.labels and options.masks:
        raise InputError("--labels and --masks: an image has a class or a mask; give one of them")
    folder = out.with_name(f"{out.stem}.files")
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of an earlier scan
    rejected_file = out.with_name(f"{out.stem}.rejected.csv")
    found = discover(source, unpacked, without=(folder, out, rejected_file))
    root = source if source.is_dir() else unpacked if unpacked.is_dir() else source.parent
    archives = [study for study in found.studies if study.kind == "medmnist"]
    if archives and len(found.studies) == 1:
        return _from_archive(archives[0], out, ScanFiles(folder, ()), found, options)
    studies, rejected = _select(found, options, patterns, root)
    files = ScanFiles(folder, dicom_files(found.studies, {item.path: item.reason for item in found.rejected}))
    items, classes, refused, notes, used = _label(studies, found, options, root, files)
    rejected += refused
    if len(fractions) > 1:
        notes = [*notes, *_unnamed(used)]
    write_rejected(rejected_file, rejected)
    if not items:
        raise InputError(f"{source}: no image that can be used; {rejected_file} says why, file by file")
    splits = {name: list(part) for name, part in split_by_patient(items, fractions, options.seed).items()}
    result = ScanResult(out, rejected_file, splits, classes, sorted(rejected), notes)
    name = options.name or _name(source)
    write_datalist(out, name=name, classes=classes, splits=splits, public=options.public)
    return result


def read_split(text: str) -> dict[str, float]:
    """Return the shares of ``70/15/15``.

    Raises:
        InputError: not one to three numbers above 0 that are 100 together.
    """
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 100) > 1e-6:
        raise InputError(
            f"--split {text!r}: give per cent of training, validation and testing, together 100, such as 70/15/15"
        )
    return {name: share / 100 for name, share in zip(SPLITS, shares, strict=False)}


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write ``path,reason`` rows, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows((str(item.path), item.reason) for item in sorted(set(rejected)))
    write_text(path, text.getvalue())


def _select(
    found: Found, options: ScanOptions, patterns: Mapping[str, re.Pattern[str]], root: Path
) -> tuple[list[Study], list[Rejected]]:
    """Keep what was asked for, and name the patients."""
    kept: list[Study] = []
    rejected = list(found.rejected)
    for study in found.studies:
        reason, chosen = None, study
        if study.kind == "medmnist":
            reason = "a MedMNIST file beside other images; scan it by itself"
        elif options.modality and study.kind == "dicom" and study.modality.upper() != options.modality.upper():
            reason = f"modality {study.modality or 'not given'}; --modality {options.modality} was asked for"
        elif study.shows_patient:
            reason = (
                "says that its pixels show who it is (BurnedInAnnotation YES); blacken that and write NO, or leave it"
            )
        elif "description" in patterns and not patterns["description"].search(study.description):
            reason = f"{study.description!r} does not match --description {options.description}"
        if reason is None and "patients" in patterns:
            path = study.files[0]
            match = patterns["patients"].search(
                path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            )
            if match is None:
                reason = f"its path does not match --patients {options.patients}, so it has no patient"
            else:
                chosen = with_patient(study, match.group(1) if match.groups() else match.group(0))
        if reason is None:
            kept.append(chosen)
        else:
            rejected += [Rejected(path, reason) for path in study.files]
    return kept, rejected


def _label(
    studies: Sequence[Study], found: Found, options: ScanOptions, root: Path, files: ScanFiles
) -> tuple[list[Item], tuple[str, ...] | None, list[Rejected], list[str], list[Study]]:
    """Return items, classes, what was left out, notes, and the studies of the items."""
    if options.masks or (found.labels and not options.labels):
        if options.masks:
            masked = masks_from_pattern(options.masks, studies, root, options.classes, files)
        else:
            masked = masks_from_objects(found.labels, studies, options.classes, files)
        items = [_item(study, files.image(study), str(mask)) for study, mask in masked.studies]
        return items, masked.classes, masked.rejected, masked.notes, [study for study, _ in masked.studies]
    if not options.labels:
        items = [_item(study, files.image(study), None) for study in studies]
        return (
            items,
            None,
            [],
            ["no labels: only a public set can do without; give --labels or --masks to train on them"],
            list(studies),
        )
    if options.labels == FOLDERS:
        labelled = labels_from_folders(studies, root, options.classes)
    else:
        table = Path(options.labels)
        own = table.resolve()
        labelled = labels_from_table(table, studies, root)
        found_own = [item for item in found.rejected if item.path.resolve() == own]
        labelled.rejected += [replace(item, reason="the table of labels") for item in found_own]
    classes = class_names([label for _, label in labelled.studies], options.classes)
    items, used = [], []
    for study, label in labelled.studies:
        index = class_index(label, classes)
        if index is None:
            reason = f"its label {label!r} is none of the classes {', '.join(classes)}"
            labelled.rejected += [Rejected(path, reason) for path in study.files]
        else:
            items.append(_item(study, files.image(study), index))
            used.append(study)
    return items, classes, labelled.rejected, labelled.notes, used


def _unnamed(studies: Sequence[Study]) -> list[str]:
    """What to tell of images of which nothing says whose they are, before they are divided by patient."""
    count = sum(not study.patient_known for study in studies)
    if not count:
        return []
    return [
        f"{count} of {len(studies)} image(s) name no patient: files count as one patient by their names, DICOM by the "
        "study, and a person may stand in several splits; say whose they are with --patients or in a column `patient`"
    ]


def _item(study: Study, image: Path, label: int | str | None) -> Item:
    item: dict[str, Any] = {"image": str(image.absolute())}
    if label is not None:
        item["label"] = str(Path(label).absolute()) if isinstance(label, str) else label
    if study.patient.split():
        item["patient"] = study.patient
    return item


def _from_archive(study: Study, out: Path, files: ScanFiles, found: Found, options: ScanOptions) -> ScanResult:
    """A MedMNIST file brings its own labels and splits; those of a public set become one, as without a file."""
    splits, classes = files.pictures(study.files[0])
    own = "splits and labels are"
    if options.public and options.split is None:
        splits, own = {"training": [item for part in splits.values() for item in part]}, "labels are"
    rejected_file = out.with_name(f"{out.stem}.rejected.csv")
    write_rejected(rejected_file, found.rejected)
    items: dict[str, list[Item]] = {name: list(part) for name, part in splits.items()}
    name = options.name or study.description
    write_datalist(out, name=name, classes=classes, splits=items, public=options.public)
    notes = [f"{own} the file's own; it names neither patients nor classes"]
    return ScanResult(out, rejected_file, items, classes, list(found.rejected), notes)


def _regex(name: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE if name == "description" else 0)
    except re.error as error:
        raise InputError(f"--{name} {text!r}: not a regular expression ({error}); correct it") from None


def _name(source: Path) -> str:
    return source.resolve().name.removesuffix(".zip") or "site"
