"""The files that a scan writes beside its datalist: links to series, masks, unpacked pictures."""

import gzip
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image

from fedhelp_med.common.files import replacing, replacing_folder
from fedhelp_med.data.medmnist_file import read_medmnist
from fedhelp_med.data.studies import Study

SPLITS = {"train": "training", "val": "validation", "test": "testing"}


class ScanFiles:
    """Writes into one folder beside the datalist, which appears with its first file.

    Args:
        folder: the folder.
        dicom: every DICOM file that was found, used or not.
    """

    def __init__(self, folder: Path, dicom: Iterable[Path]) -> None:
        self.folder = folder
        self._beside: dict[Path, set[Path]] = {}
        for path in dicom:
            self._beside.setdefault(path.parent, set()).add(path)
        self._taken: dict[str, int] = {}

    def image(self, study: Study) -> Path:
        """Return the one path that stands for an image in a datalist.

        A file stands for itself, and a folder for the series that it holds alone; the files of any other series are
        linked into a folder of their own.
        """
        if len(study.files) == 1:
            return study.files[0]
        folders = {path.parent for path in study.files}
        if len(folders) == 1:
            folder = folders.pop()
            if self._beside.get(folder, set()) <= set(study.files):
                return folder
        target = self._folder(_name(study))
        with replacing_folder(target) as temporary:
            for number, path in enumerate(study.files):
                _link(path, temporary / f"{number:05d}.dcm", target)
        return target

    def mask(self, name: str, origin: str, values: npt.NDArray[np.int64], affine: npt.NDArray[np.float64]) -> Path:
        """Write a mask ``W, H[, D]`` as NIfTI in its image's geometry.

        Args:
            name: for people; what a file name cannot hold is left out of it.
            origin: what no other mask of this scan comes from. Its hash is in the file's name, so that two masks of
                one name, such as ``slice.png`` of every patient, do not become one file.
            values: class indices.
            affine: ``4, 4``, index to RAS mm.
        """
        mark = hashlib.sha256(origin.encode("utf-8", "surrogateescape")).hexdigest()[:10]
        path = self.folder / "masks" / f"{_clean(name)}-{mark}.nii.gz"
        image = nibabel.Nifti1Image(values.astype(np.uint8), affine)
        with replacing(path) as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
        return path

    def _folder(self, name: str) -> Path:
        """A folder for a series: names that differ in other than Latin letters do not share one."""
        self._taken[name] = number = self._taken.get(name, 0) + 1
        return self.folder / "series" / (name if number == 1 else f"{name}-{number}")

    def pictures(self, path: Path) -> tuple[dict[str, list[dict[str, object]]], tuple[str, ...]]:
        """Write the images of a MedMNIST file one by one; its own splits and labels stay.

        Returns:
            Items by split, and the names of the classes.

        Raises:
            InputError: a damaged file, or of another layout.
        """
        content = read_medmnist(path)
        target = self.folder / _clean(path.stem)
        splits: dict[str, list[dict[str, object]]] = {}
        with replacing_folder(target) as temporary:
            for split, name in SPLITS.items():
                splits[name] = []
                for index, pixels in enumerate(content.images[split]):
                    file = f"{name}-{index:06d}{content.suffix}"
                    if content.is_volume:
                        nibabel.save(nibabel.Nifti1Image(pixels.transpose(2, 1, 0), np.eye(4)), temporary / file)
                    else:
                        Image.fromarray(pixels).save(temporary / file)
                    splits[name].append({"image": str(target / file), "label": int(content.labels[split][index])})
        return splits, content.classes


def dicom_files(studies: Sequence[Study], others: Mapping[Path, str]) -> list[Path]:
    """Every DICOM file of a scan: those of the studies, and those that were refused."""
    from fedhelp_med.transforms.sniff import is_dicom

    used = [path for study in studies if study.kind == "dicom" for path in study.files]
    return [*used, *(path for path in others if path.is_file() and is_dicom(path))]


def _link(path: Path, link: Path, target: Path) -> None:
    """Link a file into a folder that will be renamed to ``target``; copy it where links are not possible."""
    try:
        link.symlink_to(os.path.relpath(path.resolve(), target.resolve()))
    except OSError:
        try:
            link.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, link)


def _name(study: Study) -> str:
    return _clean("-".join(part for part in (study.patient, study.modality, study.description, study.series) if part))


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-120:] or "image"
