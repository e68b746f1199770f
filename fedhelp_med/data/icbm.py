"""The demo's sites: real anatomy (the ICBM 2009 template), simulated scanners and simulated lesions.

A study is a slab of the template; half of the studies hold simulated lesions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from fedhelp_med.data.demo import Counts, DemoData
from fedhelp_med.data.lesions import add_distractors, add_lesions
from fedhelp_med.data.scanners import Scanner, acquire, contrast
from fedhelp_med.data.simulated_scan import Scan
from fedhelp_med.data.template import SLAB_SLICES, Anatomy
from fedhelp_med.data.template_sites import Stream, TemplateTask, make_template_sites


def make_icbm_sites(
    folder: Path, *, seed: int, dicom: bool = True, public_zip: Path | None = None, **counts: Unpack[Counts]
) -> DemoData:
    """Write the demo's studies (slabs of 64 x 64 x 8 voxels of about 1 mm, int16) and datalists.

    Args:
        folder: where; complete data with the same parameters is used again.
        seed: of everything; the same seed gives the same bytes.
        dicom: let every second site store DICOM MR series (of the same voxels) instead of NIfTI files.
        public_zip: a zip with one folder of pictures per class; they are the public set then, unlabelled.
        **counts: numbers of sites and studies other than the demo's (``Counts``).

    Raises:
        InputError: a count is out of range, nilearn is missing, the zip is damaged, or the folder holds other data.
    """
    return make_template_sites(LESIONS, folder, seed, dicom, public_zip, counts)


def make_scans(anatomy: Anatomy, scanners: Sequence[Scanner], count: int, stream: Stream) -> Iterator[tuple[Scan, int]]:
    """Yield studies in random order, every second one with lesions; every scanner gets both classes."""
    for index, drawn in enumerate(stream("order").permutation(count)):
        label = int(drawn % 2)
        yield make_study(anatomy, scanners[drawn // 2 % len(scanners)], label, stream(index)), label


def make_study(anatomy: Anatomy, scanner: Scanner, label: int, rng: np.random.Generator) -> Scan:
    """Make one study, with simulated lesions when ``label`` is 1; the slab's tilt is left out of its geometry."""
    slab = anatomy.draw(rng)
    tissue = np.clip((slab.maps[1] + slab.maps[2] - 0.3) / 0.4, 0, 1)  # the maps are vague: 0.7 is tissue
    image = contrast(slab.maps, scanner)
    if label:
        image = add_lesions(image, tissue, slab.spacing, rng)
    image = add_distractors(image, tissue, slab.spacing, rng)
    return Scan(acquire(image, scanner, rng), slab.spacing, slab.centre)


LESIONS = TemplateTask(
    source="icbm",
    stream="icbm",
    recipe=5,
    title="ICBM 2009 template with simulated lesions",
    classes=("no lesion", "simulated lesion"),
    slices=SLAB_SLICES,
    scans=make_scans,
    counts={
        "small_sites": 4,
        "large_sites": 2,
        "small_training": 24,
        "large_training": 300,
        "small_validation": 24,
        "large_validation": 60,
        "testing": 100,
        "public": 400,
        "foundation": 1200,
        "foundation_validation": 200,
    },
)
