"""The segmentation demo's sites: brain tissue on real anatomy (the ICBM 2009 template), simulated scanners.

A study is one axial slice of the template. Its mask is the template's own: at each pixel the likeliest of grey matter,
white matter and everything else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from fedhelp_med.data.demo import Counts, DemoData
from fedhelp_med.data.scanners import Scanner, acquire, contrast
from fedhelp_med.data.simulated_scan import Scan
from fedhelp_med.data.template import Anatomy
from fedhelp_med.data.template_sites import Stream, TemplateTask, make_template_sites


def make_tissue_sites(
    folder: Path, *, seed: int, dicom: bool = True, public_zip: Path | None = None, **counts: Unpack[Counts]
) -> DemoData:
    """Write the studies (slices of 64 x 64 pixels of about 1 mm: int16, with a uint8 NIfTI mask each) and datalists.

    Args:
        folder: where; complete data with the same parameters is used again.
        seed: of everything; the same seed gives the same bytes.
        dicom: let every second site store DICOM MR series (of the same voxels) instead of NIfTI files.
        public_zip: a zip with one folder of pictures per class; they are the public set then, unlabelled.
        **counts: numbers of sites and studies other than the demo's (``Counts``).

    Raises:
        InputError: a count is out of range, nilearn is missing, the zip is damaged, or the folder holds other data.
    """
    return make_template_sites(TISSUE, folder, seed, dicom, public_zip, counts)


def tissue_mask(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the likeliest class of each voxel: 0 background, 1 grey matter, 2 white matter.

    Args:
        maps: T1, grey and white matter in 0..1, ``3, D, H, W``; the background is what the last two leave of 1.
    """
    _, grey, white = maps
    mask: npt.NDArray[np.uint8] = np.stack([1 - grey - white, grey, white]).argmax(0).astype(np.uint8)
    return mask


def make_scans(
    anatomy: Anatomy, scanners: Sequence[Scanner], count: int, stream: Stream
) -> Iterator[tuple[Scan, Scan]]:
    """Yield studies, each with its mask; the scanners take turns."""
    for index in range(count):
        yield make_slice(anatomy, scanners[index % len(scanners)], stream(index))


def make_slice(anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator) -> tuple[Scan, Scan]:
    """Make one study: the slice and its mask; the slice's tilt is left out of their geometry."""
    slab = anatomy.draw(rng)
    image = acquire(contrast(slab.maps, scanner), scanner, rng)
    mask = tissue_mask(slab.maps)
    return Scan(image, slab.spacing, slab.centre), Scan(mask, slab.spacing, slab.centre)


TISSUE = TemplateTask(
    source="icbm tissue",
    stream="tissue",
    recipe=2,
    title="ICBM 2009 template, brain tissue",
    classes=("background", "grey matter", "white matter"),
    slices=1,
    scans=make_scans,
    counts={
        "small_sites": 4,
        "large_sites": 2,
        "small_training": 8,
        "large_training": 150,
        "small_validation": 8,
        "large_validation": 30,
        "testing": 100,
        "public": 300,
        "foundation": 600,
        "foundation_validation": 100,
    },
)
