"""Reading a MedMNIST file: ``train_images, train_labels, val_images, ...`` in one npz, checked."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhelp_med.common.errors import InputError, first_line

SPLITS = ("train", "val", "test")
MAXIMUM_CLASSES = 1000  # a larger label is taken for damage

# What numpy and zipfile raise on damaged content.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class MedMnistFile:
    """A MedMNIST file in memory.

    Attributes:
        path: the file.
        images: by split, uint8: ``N, H, W``, ``N, H, W, 3`` or ``N, D, H, W``.
        labels: by split, class indices ``N``.
        class_count: 1 + the largest label.
    """

    path: Path
    images: dict[str, npt.NDArray[np.uint8]]
    labels: dict[str, npt.NDArray[np.int64]]
    class_count: int

    @property
    def is_volume(self) -> bool:
        """Whether a study is a volume ``D, H, W``."""
        return self.images["train"].ndim == 4 and self.images["train"].shape[-1] != 3

    @property
    def mode(self) -> str:
        """Pillow's name of the pictures' colours: ``L`` or ``RGB``."""
        return "RGB" if self.images["train"].ndim == 4 else "L"

    @property
    def suffix(self) -> str:
        """Of the files that the studies become."""
        return ".nii" if self.is_volume else ".png"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names for the classes; the file holds none."""
        return tuple(f"class {index}" for index in range(self.class_count))


def read_medmnist(path: Path) -> MedMnistFile:
    """Read and check a MedMNIST file.

    Raises:
        InputError: not a MedMNIST file, damaged, or not a task with one integer label per image.
    """
    arrays = _load(path)
    images, labels = {}, {}
    for split in SPLITS:
        images[split] = _images(path, f"{split}_images", arrays[f"{split}_images"])
        labels[split] = _labels(path, f"{split}_labels", arrays[f"{split}_labels"])
        if len(images[split]) != len(labels[split]) or not len(images[split]):
            raise _error(
                path,
                f"{split}_images",
                f"{len(images[split])} images and {len(labels[split])} labels",
                "there must be one label per image, and at least one image",
            )
        if images[split].shape[1:] != images["train"].shape[1:]:
            found = f"shape {images[split].shape[1:]}, but train_images {images['train'].shape[1:]}"
            raise _error(path, f"{split}_images", found, "all images must have one shape")
    return MedMnistFile(path, images, labels, 1 + max(int(label.max()) for label in labels.values()))


def _load(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    keys = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    if not path.is_file():
        raise InputError(f"{path}: this MedMNIST file does not exist; correct the path")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: one array, not an npz archive; give a MedMNIST npz file")
            missing = [key for key in keys if key not in loaded.files]
            if missing:
                raise InputError(
                    f"{path}: {missing[0]}: missing (the file has {', '.join(loaded.files) or 'nothing'}); "
                    f"a MedMNIST file has {', '.join(keys)}"
                )
            return {key: loaded[key] for key in keys}
    except DAMAGE as error:
        raise InputError(
            f"{path}: cannot be read as a MedMNIST npz file ({first_line(error)}); download it again"
        ) from None


def _images(path: Path, key: str, array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape[1:]:
        found = f"{array.dtype} of shape {array.shape}"
        raise _error(path, key, found, "MedMNIST images are uint8: N,H,W or N,H,W,3 or N,D,H,W")
    return np.asarray(array, np.uint8)


def _labels(path: Path, key: str, array: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    if array.ndim == 2 and array.shape[1] > 1:
        found = f"{array.shape[1]} labels per image"
        raise _error(path, key, found, "multi-label tasks are not supported; choose a task with one label per image")
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        found = f"{array.dtype} of shape {array.shape}"
        raise _error(path, key, found, "labels must be integers, one per image (regression is not supported)")
    labels = array.reshape(-1).astype(np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= MAXIMUM_CLASSES):
        found = f"labels from {labels.min()} to {labels.max()}"
        raise _error(path, key, found, f"class indices lie in 0 to {MAXIMUM_CLASSES - 1}")
    return labels


def _error(path: Path, key: str, found: str, remedy: str) -> InputError:
    return InputError(f"{path}: {key}: {found}; {remedy}")
