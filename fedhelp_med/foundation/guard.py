"""The privacy guard: which images may be sent to a foundation model. Nothing switches it off.

Only images of a datalist that declares itself public are sent, and of those none that lies where private data are
kept, none with the pixels of a private image, and no DICOM file that still names a patient.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import Datalist, read_datalist
from fedhelp_med.foundation.protocol import load_pixels
from fedhelp_med.transforms import identity

NAMED = 3  # how many of many refused images an error names
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


class PrivacyGuard:
    """Says which public images may be sent.

    Args:
        public: the datalist whose images are to be sent.
        private: datalists of this site's own data. Their images are read here and nothing of them is kept.

    Raises:
        InputError: if ``public`` does not declare itself public, or a private datalist cannot be read.
    """

    def __init__(self, public: Datalist, private: Iterable[Path] = ()) -> None:
        if not public.public:
            raise InputError(
                f'{public.path} does not declare itself public, so none of its images is sent: write "public": true '
                "in it if every one of them may leave this site"
            )
        self._private = [read_datalist(path, require=()) for path in private]

    def check_places(self, images: Sequence[str]) -> None:
        """Refuse images that lie in a folder of private data, also through a link.

        Raises:
            InputError: naming them.
        """
        refused = []
        for image in images:
            places = [parent for file in _files(image) for parent in file.resolve().parents] if self._folders else []
            inside = next((folder for folder in places if folder in self._folders), None)
            if inside is not None:
                refused.append(f"{image} (in {inside})")
        if refused:
            more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
            raise InputError(
                f"{len(refused)} images lie in folders of private data and are not sent: {', '.join(refused[:NAMED])}"
                f"{more}; keep public images outside of them"
            )

    def check(self, image: str, pixels: NDArray[Any]) -> None:
        """Refuse an image that is private, or that names a patient.

        Args:
            image: the file.
            pixels: what it holds, before it is made to fit a model.

        Raises:
            InputError: naming it and the reason.
        """
        found = identifying_elements(image)
        if found:
            raise InputError(
                f"{image} is not sent: it still says who the patient is ({', '.join(found)}); de-identify it "
                "(DICOM PS3.15, basic profile) or take it off the datalist"
            )
        if self._private:
            private = self._fingerprints.get(fingerprint(pixels))
            if private is not None:
                raise InputError(
                    f"{image} is not sent: it has the pixels of the private image {private}; take it off the datalist"
                )

    @cached_property
    def _folders(self) -> set[Path]:
        """Where private data are kept: the folders of the private datalists, of what they list and of its links."""
        folders = {datalist.path.resolve().parent for datalist in self._private}
        listed = {item[key] for _, item in self._items() for key in ("image", "label") if _is_path(item.get(key))}
        for path in map(Path, listed):
            folders.add(path.resolve().parent)
            if path.is_dir():  # a series: its slices may be links to where a scan found them
                folders.update(entry.resolve().parent for entry in path.rglob("*") if entry.is_symlink())
        return folders

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        found = {}
        for datalist, item in self._items():
            try:
                found[fingerprint(load_pixels(item["image"]))] = item["image"]
            except InputError as error:
                raise InputError(
                    f"{error}. It is listed in the private datalist {datalist.path}: what is private has to be "
                    "readable before anything is sent"
                ) from None
        return found

    def _items(self) -> Iterator[tuple[Datalist, dict[str, Any]]]:
        return ((datalist, item) for datalist in self._private for items in datalist.splits.values() for item in items)


def fingerprint(pixels: NDArray[Any]) -> str:
    """Return a hash of an image's pixels that stays the same when it is saved in another way.

    What counts is the rank of each intensity among those of the image: how often each occurs, and the sums along each
    axis. So neither the order of the axes, mirroring and axes of length 1 matter, nor the type of the numbers and
    their scale (linear or not), nor grey saved as colour. Cropped, resized and lossily compressed copies have another
    hash.
    """
    values = np.nan_to_num(np.asarray(pixels))
    for axis in (0, -1):  # grey as colour, with or without an alpha channel
        if values.ndim > 2 and values.shape[axis] in (3, 4):
            bands = np.moveaxis(values, axis, 0)[:3]
            if (bands == bands[0]).all():
                values = bands[0]
                break
    values = values.squeeze()
    ranks = np.unique(values, return_inverse=True)[1].reshape(values.shape).astype("<i8")
    profiles = []
    for axis in range(ranks.ndim):
        profile = ranks.sum(axis=tuple(other for other in range(ranks.ndim) if other != axis))
        profiles.append(min(profile.tobytes(), profile[::-1].tobytes()))
    histogram = np.bincount(ranks.ravel()).astype("<i8").tobytes()
    return hashlib.sha256(b"".join([histogram, *sorted(profiles)])).hexdigest()


def identifying_elements(image: str | Path) -> list[str]:
    """Return the names of the elements by which DICOM says who the patient is; none for other formats.

    They are those of the kind ``identity`` of ``fedhelp_med.transforms.identifying_elements``. Descriptions, age, sex,
    dates, private elements and overlays are not among them: public collections keep them, and of a file only the
    pixels are sent.

    Args:
        image: a file, or the folder of a series, all files of which are looked at.

    Raises:
        InputError: if a header cannot be read.
    """
    return sorted({name for file in _files(image) for name in _identifying(file)})


def _files(image: str | Path) -> list[Path]:
    path = Path(image)
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _identifying(path: Path) -> list[str]:
    named_so = path.name.lower().endswith(DICOM_SUFFIXES)
    with path.open("rb") as stream:
        if not named_so and stream.read(132)[128:] != b"DICM":
            return []
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=named_so)
        found = identity.identifying_elements(dataset, dates=False)
    except Exception as error:  # pydicom raises whatever its parsers raise
        raise InputError(f"{path} is not sent: its DICOM header cannot be read ({error})") from None
    names = {finding.keyword for finding in found if finding.kind == "identity"}
    if any(finding.keyword == "BurnedInAnnotation" for finding in found):
        names.add("BurnedInAnnotation: YES")
    return sorted(names)


def _is_path(value: object) -> bool:
    return isinstance(value, str)
