"""Sets of studies from a zip of pictures: images of another domain for a demo."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import Study, StudySet
from fedhelp_med.data.picture_zip import ZippedPicture, list_pictures, read_pictures


def public_pictures(path: Path, count: int, seed: int) -> StudySet:
    """Return a public set of grey pictures, ``H, W``, drawn from a zip; its folders' names are not used as labels.

    Args:
        path: a zip with one folder of JPEG or PNG pictures per class.
        count: pictures, or all where there are fewer.
        seed: of the draw.

    Raises:
        InputError: not such a zip.
    """
    _, pictures = list_pictures(path)
    order = np.random.default_rng(derive_seed(seed, "public pictures")).permutation(len(pictures))
    chosen = [pictures[index] for index in order[:count]]
    studies = picture_studies(path, chosen, "L", labelled=False)
    return StudySet("public", f"{path.stem}: public, unlabelled", None, {"training": studies}, ".png")


def picture_studies(
    path: Path, pictures: Sequence[ZippedPicture], mode: str, *, labelled: bool = True
) -> Iterator[Study]:
    """Yield pictures of a zip in the private images' colour mode: both go through networks with the same channels."""
    for picture, image in zip(pictures, read_pictures(path, pictures, mode), strict=True):
        yield Study(png(image), picture.name, picture.label if labelled else None)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode ``H, W[, 3]``."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
