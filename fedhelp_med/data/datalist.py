"""Datalists: MONAI's JSON lists of a site's images, read strictly.

A datalist is ``{"name": ..., "labels": {"0": "no lesion", "1": "lesion"}, "training": [item, ...], "validation":
[...], "testing": [...]}`` where an item is ``{"image": path, "label": int or mask path, "patient": text}``.
``name``, ``labels``, ``label`` and ``patient`` are optional; paths count from the datalist's folder. ``"public": true``
declares that every image in it may leave the site; without it a datalist is private.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_json

SPLITS = ("training", "validation", "testing")
NAMED = 3  # how many of many offending entries an error names

Item = dict[str, Any]


@dataclass(frozen=True)
class Datalist:
    """A validated datalist.

    Attributes:
        path: the file.
        name: its ``name``, or its folder's.
        classes: the names in ``labels``, by index; None when it declares none.
        splits: items by split, with absolute paths.
        public: whether it declares that all its images may leave the site.
    """

    path: Path
    name: str
    classes: tuple[str, ...] | None
    splits: dict[str, list[Item]]
    public: bool = False

    @property
    def class_count(self) -> int | None:
        """The number of classes: as declared, else 1 + the largest label; None without integer labels."""
        if self.classes is not None:
            return len(self.classes)
        labels = [item["label"] for item in self._items() if isinstance(item.get("label"), int)]
        return 1 + max(labels) if labels else None

    @property
    def is_segmentation(self) -> bool:
        """Whether the labels are masks."""
        return any(isinstance(item.get("label"), str) for item in self._items())

    def samples(self, split: str) -> int:
        """The number of items in a split, 0 when the datalist does not have it."""
        return len(self.splits.get(split, []))

    def patients(self, split: str) -> tuple[int, ...]:
        """A number for the patient of each item in a split, from 0; an item without ``patient`` is one of its own."""
        numbers: dict[object, int] = {}
        keys = (
            patient_key(item["patient"]) if "patient" in item else place
            for place, item in enumerate(self.splits.get(split, []))
        )
        return tuple(numbers.setdefault(key, len(numbers)) for key in keys)

    def _items(self) -> Iterator[Item]:
        return (item for items in self.splits.values() for item in items)


def patient_key(patient: object) -> str:
    """One spelling per patient: case and white space do not make two patients."""
    return "".join(str(patient).split()).casefold()


def read_datalist(path: Path, *, require: Sequence[str] = ("training",)) -> Datalist:
    """Read and check a datalist.

    Args:
        path: the JSON file.
        require: splits that must be there and hold at least one item.

    Returns:
        The datalist; image and mask paths are absolute strings.

    Raises:
        InputError: anything is wrong; the message names the file, the key, its value and the remedy.
    """
    path = Path(path)
    content = _read_json(path)
    _check_splits(path, content, require)
    classes = _read_classes(path, content.get("labels"))
    name = content.get("name", path.absolute().parent.name)
    if not isinstance(name, str):
        raise _error(path, "name", name, "write a text")
    public = content.get("public", False)
    if not isinstance(public, bool):
        raise _error(path, "public", public, "write true if every image may leave this site, else leave the key out")
    splits = {split: content[split] for split in SPLITS if split in content}
    checked = {
        split: [_read_item(path, f"{split}[{index}]", item, classes) for index, item in enumerate(items)]
        for split, items in splits.items()
    }
    _check_label_types(path, checked)
    _check_files(path, checked)
    _check_leaks(path, checked)
    return Datalist(path, name, classes, checked, public)


def write_datalist(
    path: Path,
    *,
    name: str,
    classes: Sequence[str] | None,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    public: bool = False,
) -> None:
    """Write a datalist, whole or not at all.

    Args:
        path: the JSON file.
        name: what a person calls this data.
        classes: class names by index, or None.
        splits: items by split. Absolute image and mask paths become relative to the file's folder; relative ones
            count from there already.
        public: declare that every image may leave the site.
    """
    content: dict[str, Any] = {"name": name}
    if public:
        content["public"] = True
    if classes is not None:
        content["labels"] = {str(index): label for index, label in enumerate(classes)}
    for split, items in splits.items():
        content[split] = [_relative(item, path.absolute().parent) for item in items]
    write_json(path, content)


def _error(path: Path, key: str, value: object, remedy: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InputError(f"{path}: {key}: {shown} is not valid; {remedy}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: this datalist does not exist; correct the path or write it first") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a readable JSON file") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}; correct it there"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8; save the datalist as UTF-8 JSON") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for a datalist; write a flat list of items") from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: holds a {type(content).__name__}, not a mapping; write {{"training": [...], ...}}')
    return content


def _check_splits(path: Path, content: Mapping[str, Any], require: Sequence[str]) -> None:
    for key, value in content.items():
        if key in SPLITS:
            if not isinstance(value, list):
                raise _error(path, key, value, "write a list of items")
        elif isinstance(value, list) and any(isinstance(item, dict) and "image" in item for item in value):
            raise InputError(
                f"{path}: {key}: not the name of a split ({len(value)} items); use one of {', '.join(SPLITS)}"
            )
    for split in require:
        if split not in content:
            raise InputError(
                f"{path}: {split}: missing (the file has {', '.join(content) or 'nothing'}); add a list of items"
            )
        if not content[split]:
            raise InputError(f"{path}: {split}: [] is empty; add at least one item")


def _read_classes(path: Path, labels: Any) -> tuple[str, ...] | None:
    if labels is None:
        return None
    remedy = 'write the class names by index: {"0": "normal", "1": "lesion"}'
    if not isinstance(labels, dict) or not labels:
        raise _error(path, "labels", labels, remedy)
    if set(labels) != {str(index) for index in range(len(labels))}:
        raise _error(path, "labels", list(labels), f"count without gaps from 0; {remedy}")
    for index, name in labels.items():
        if not isinstance(name, str):
            raise _error(path, f"labels.{index}", name, remedy)
    return tuple(labels[str(index)] for index in range(len(labels)))


def _read_item(path: Path, key: str, item: Any, classes: tuple[str, ...] | None) -> Item:
    """Check one item on its own and make its paths absolute."""
    if not isinstance(item, dict):
        raise _error(path, key, item, 'write an item: {"image": "relative/path", "label": 0}')
    image = item.get("image")
    if not isinstance(image, str) or not image:
        raise _error(path, f"{key}.image", image, "name one image file, relative to the datalist's folder")
    checked = {**item, "image": _absolute(path, image)}
    label = item.get("label")
    if label is None:
        checked.pop("label", None)
    elif isinstance(label, str) and label and not label.lstrip("+-").isdigit():
        checked["label"] = _absolute(path, label)
    elif not isinstance(label, int) or isinstance(label, bool):
        remedy = "write one class index as a whole number without quotes, or the path of a mask"
        raise _error(path, f"{key}.label", label, remedy)
    elif label < 0 or (classes is not None and label >= len(classes)):
        allowed = f"0 to {len(classes) - 1}" if classes else "0 or more"
        raise _error(path, f"{key}.label", label, f"write {allowed}, or declare the class in `labels`")
    patient = item.get("patient")
    if patient is None:
        checked.pop("patient", None)
    elif isinstance(patient, bool) or not isinstance(patient, str | int) or not patient_key(patient):
        raise _error(path, f"{key}.patient", patient, "write the patient's pseudonym, or leave the key out")
    return checked


def _check_label_types(path: Path, splits: Mapping[str, list[Item]]) -> None:
    """All labels are class indices or all are masks, and a split is labelled as a whole or not at all."""
    first: tuple[str, object] | None = None
    for split, items in splits.items():
        labelled = ["label" in item for item in items]
        if any(labelled) and not all(labelled):
            index = labelled.index(False)
            raise InputError(
                f"{path}: {split}[{index}].label: missing, while other items of {split} have one; "
                "label all of them or none"
            )
        for index, item in enumerate(items):
            if "label" not in item:
                continue
            if first is None:
                first = (f"{split}[{index}].label", item["label"])
            elif isinstance(item["label"], str) != isinstance(first[1], str):
                raise InputError(
                    f"{path}: {split}[{index}].label: {item['label']!r} beside {first[0]}: {first[1]!r}; "
                    "make all labels class indices (classification) or all mask paths (segmentation)"
                )


def _check_files(path: Path, splits: Mapping[str, list[Item]]) -> None:
    missing = [
        f"{split}[{index}].{key}: {item[key]}"
        for split, items in splits.items()
        for index, item in enumerate(items)
        for key in ("image", "label")
        if isinstance(item.get(key), str) and not os.path.exists(item[key])  # noqa: PTH110 (thousands of them)
    ]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise InputError(
            f"{path}: {len(missing)} file(s) not found: {', '.join(missing[:NAMED])}{more}; "
            "correct the paths, which count from the datalist's folder"
        )


def _check_leaks(path: Path, splits: Mapping[str, list[Item]]) -> None:
    """No image appears twice, and no patient in two splits."""
    images: dict[str, str] = {}
    patients: dict[str, tuple[str, str]] = {}
    for split, items in splits.items():
        for index, item in enumerate(items):
            place = f"{split}[{index}]"
            earlier = images.setdefault(os.path.realpath(item["image"]), place)
            if earlier != place:
                raise InputError(
                    f"{path}: {place}.image: {item['image']} is also {earlier}.image; list every image once"
                )
            if "patient" not in item:
                continue
            known_split, known_place = patients.setdefault(patient_key(item["patient"]), (split, place))
            if known_split != split:
                raise InputError(
                    f"{path}: {place}.patient: {item['patient']!r} is also the patient of {known_place}; "
                    "keep all images of one patient in one split"
                )


def _absolute(path: Path, entry: str) -> str:
    return os.path.normpath(path.absolute().parent / entry)


def _relative(item: Mapping[str, Any], folder: Path) -> Item:
    written = dict(item)
    for key in ("image", "label"):
        value = written.get(key)
        if isinstance(value, str | Path):
            value = Path(value)
            relative = Path(os.path.relpath(value, folder)) if value.is_absolute() else value
            written[key] = relative.as_posix()
    return written
