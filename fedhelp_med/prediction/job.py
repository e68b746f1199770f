"""All images of a source: find them, predict each, write what was found. One bad image does not stop the others."""

import csv
import gzip
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.files import check_empty, replacing, write_json, write_text
from fedhelp_med.data.scan_files import ScanFiles
from fedhelp_med.data.studies import Study, find_studies
from fedhelp_med.prediction.model import Model
from fedhelp_med.prediction.picture import draw
from fedhelp_med.prediction.segmentation_object import write_segmentation
from fedhelp_med.transforms import LoadStudy


@dataclass
class Outcome:
    """What became of a source.

    Attributes:
        predicted: a row for each image: what it is, and what was found.
        rejected: path and reason of everything else.
    """

    predicted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def predict_source(
    model: Model, source: Path, out: Path, watch: Callable[[str, int], Any] = lambda name, total: None
) -> Outcome:
    """Predict every image of a source and write the results to ``out``.

    ``predictions.csv`` and ``.json``, ``rejected.csv``, ``pictures/NAME.png``; for segmentation also
    ``masks/NAME.nii.gz`` and, for DICOM, ``masks/NAME.dcm``.

    Args:
        model: that predicts.
        source: a folder, a zip, a DICOMDIR or a file.
        out: a new or empty folder.
        watch: is told of each image and how many there are.

    Raises:
        InputError: ``out`` holds something, or ``source`` does not exist.
        FedHelpError: not one image could be predicted; ``rejected.csv`` says why.
    """
    check_empty(out)
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fedhelp-") as unpacked:
        found, rejected = find_studies(source, Path(unpacked) / "zip")
        outcome.rejected += [(_shown(entry.path, unpacked), entry.reason) for entry in rejected]
        studies = [single for study in found for single in _single(study, Path(unpacked) / "npz", outcome)]
        roots = (Path(unpacked) / "zip", Path(unpacked) / "npz", source if source.is_dir() else source.parent)
        for name, study in zip(unique_names(studies, roots), studies, strict=True):
            watch(name, len(studies))
            try:
                row = {"study": name, "patient": study.patient, "series": study.series, "modality": study.modality}
                row["file"] = _shown(study.files[0], unpacked)
                found_here, reasons = _predict(model, study, name, out)
                outcome.predicted.append(row | found_here)
                outcome.rejected += [(row["file"], reason) for reason in reasons]
            except Exception as error:  # of one image, whatever a library raises about it
                reason = str(error).strip() or type(error).__name__
                outcome.rejected.append((_shown(study.files[0], unpacked), reason.replace("\n", " ")))
    _write(model, outcome, out)
    if not outcome.predicted:
        raise FedHelpError(f"{source}: no image could be predicted; {out / 'rejected.csv'} says why")
    return outcome


def unique_names(studies: Sequence[Study], roots: Sequence[Path]) -> list[str]:
    """Name each image by its path below one of the roots: of its file, or of the folder of its series."""
    names: dict[str, None] = {}
    counts: Counter[str] = Counter()
    for study in studies:
        first = study.files[0]
        place = first.parent if len(study.files) > 1 else first.with_name(re.sub(r"(\.nii)?\.\w{1,5}$", "", first.name))
        relative = next((place.relative_to(root) for root in roots if place.is_relative_to(root)), Path(place.name))
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(relative.parts)).strip("._") or "image"
        counts[name] += 1
        unique = name if counts[name] == 1 else f"{name}-{counts[name]}"
        while unique in names:
            unique += "-"
        names[unique] = None
    return list(names)


def _single(study: Study, folder: Path, outcome: Outcome) -> list[Study]:
    """Return the images of a MedMNIST file one by one; any other study is one image."""
    if study.kind != "medmnist":
        return [study]
    try:
        splits, _ = ScanFiles(folder, ()).pictures(study.files[0])
    except FedHelpError as error:
        outcome.rejected.append((str(study.files[0]), str(error)))
        return []
    files = [Path(str(item["image"])) for items in splits.values() for item in items]
    return [Study("picture" if file.suffix == ".png" else "nifti", (file,), file.stem) for file in files]


def _predict(model: Model, study: Study, name: str, out: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what was found in an image, and why something beside it could not be written."""
    image = LoadStudy()(study.files if len(study.files) > 1 else study.files[0])
    probabilities = model.probabilities(image)
    affine = None if study.kind == "picture" else np.asarray(image.affine, dtype=np.float64)
    pixels = image.as_tensor().numpy()
    colour = image.meta["original_channel_dim"] == -1
    if colour and pixels.shape[-1] != 3:
        pixels, colour = pixels[..., 0], False
    if model.task == "classification":
        best = int(probabilities.argmax())
        shown = f"{name}: {model.classes[best]} ({float(probabilities[best]):.3f})"
        draw(out / "pictures" / f"{name}.png", pixels, affine, shown, colour)
        found = {f"p({label})": float(value) for label, value in zip(model.classes, probabilities, strict=True)}
        return {"predicted": model.classes[best], **found}, []
    mask = probabilities.argmax(0).numpy().astype(np.uint8 if len(model.classes) < 256 else np.uint16)
    _write_nifti(out / "masks" / f"{name}.nii.gz", mask, image, study)
    draw(out / "pictures" / f"{name}.png", pixels, affine, name, colour, mask, model.classes)
    reasons = []
    if study.kind == "dicom":
        try:
            write_segmentation(out / "masks" / f"{name}.dcm", study.files, mask, model.classes, model.source)
        except Exception as error:  # of this object alone: the mask is there
            reasons.append(str(error) or type(error).__name__)
    counts = np.bincount(mask.ravel(), minlength=len(model.classes))
    known = affine is not None and image.meta.get("spacing_known", True)
    volume = float(abs(np.linalg.det(affine[:3, :3]))) / 1000 if affine is not None and known else None
    row: dict[str, Any] = {}
    for label, count in list(zip(model.classes, counts, strict=True))[1:]:
        row[f"voxels({label})"] = int(count)
        row[f"ml({label})"] = "" if volume is None else round(count * volume, 4)
    return row, reasons


def _write_nifti(path: Path, mask: npt.NDArray[Any], image: MetaTensor, study: Study) -> None:
    """Write a mask in the input's own geometry: a NIfTI input's header, else the loaded image's affine."""
    if study.kind == "nifti":
        header = nibabel.load(study.files[0]).header
        nifti = nibabel.Nifti1Image(mask.reshape(header.get_data_shape()[: max(mask.ndim, 3)]), None, header)
        nifti.header.set_data_dtype(mask.dtype)
        nifti.header.set_slope_inter(1, 0)
        nifti.header["cal_min"] = nifti.header["cal_max"] = 0  # the image's display range
    else:
        nifti = nibabel.Nifti1Image(mask, np.asarray(image.affine, dtype=np.float64))
        nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = b"fedhelp predict, not reviewed"
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(nifti.to_bytes(), mtime=0))


def _write(model: Model, outcome: Outcome, out: Path) -> None:
    columns = list(dict.fromkeys(key for row in outcome.predicted for key in row))
    if outcome.predicted:
        rows = [[row.get(column, "") for column in columns] for row in outcome.predicted]
        write_text(out / "predictions.csv", _table(columns, rows))
        content = {
            "model": model.source, "task": model.task, "classes": list(model.classes), "studies": outcome.predicted,
        }  # fmt: skip
        write_json(out / "predictions.json", content)
    write_text(out / "rejected.csv", _table(["path", "reason"], outcome.rejected))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()


def _shown(path: Path, unpacked: str) -> str:
    """A path as the user knows it: within a zip or an archive, or as it is."""
    for folder in ("zip", "npz"):
        if path.is_relative_to(root := Path(unpacked) / folder):
            return str(path.relative_to(root))
    return str(path)
