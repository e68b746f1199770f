"""The segmentation demo's sites: brain tissue on real anatomy (the ICBM 2009 template), simulated scanners.

Nobody's scan is in it: a *study* is one axial slice of the template, deformed and scanned by a simulated machine. Its
mask is the template's own: at each pixel the likeliest of grey matter, white matter and everything else. The cells of
the template that a split uses belong to that split alone. The foundation model's training set uses cells that no site
has; its validation set uses the validation cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import DemoData, Study, StudySet, build_demo, check_counts, site_roles, stores_series
from fedhelp_med.data.scanners import Scanner, acquire, contrast, draw_scanner
from fedhelp_med.data.simulated_scan import Scan, as_nifti, as_series
from fedhelp_med.data.template import GROUPS, Anatomy, find_template, load_template

RECIPE = 2  # counts up when the same parameters give other bytes
CLASSES = ("background", "grey matter", "white matter")
NAME = "ICBM 2009 template, brain tissue"
KIND_OF_ROLE = {"small": "clinic", "large": "hospital"}
FOUNDATION_SCANNERS = ("clinic", "hospital") * 4


def make_tissue_sites(
    folder: Path,
    *,
    seed: int,
    small_sites: int = 4,
    large_sites: int = 2,
    small_training: int = 8,
    large_training: int = 150,
    small_validation: int = 8,
    large_validation: int = 30,
    testing: int = 100,
    public: int = 300,
    foundation: int = 600,
    foundation_validation: int = 100,
    dicom: bool = True,
) -> DemoData:
    """Write the studies (slices of 64 x 64 pixels of about 1 mm: int16, with a uint8 NIfTI mask each) and datalists.

    Small sites have a clinic's scanner each, large ones a hospital's. The public set, unlabelled, comes from one
    further scanner of either kind, the foundation model's labelled set from eight.

    Args:
        folder: where; complete data with the same parameters is used again.
        seed: of everything; the same seed gives the same bytes.
        small_sites: number of clinics.
        large_sites: number of hospitals.
        small_training: training studies per clinic.
        large_training: training studies per hospital.
        small_validation: validation studies per clinic.
        large_validation: validation studies per hospital.
        testing: test studies per site.
        public: public studies.
        foundation: training studies of the foundation model.
        foundation_validation: its validation studies.
        dicom: let every second site store DICOM MR series (of the same voxels) instead of NIfTI files.

    Raises:
        InputError: a count is out of range, nilearn is missing, or the folder holds other data.
    """
    counts = {
        "small_training": small_training,
        "large_training": large_training,
        "small_validation": small_validation,
        "large_validation": large_validation,
        "testing": testing,
        "public": public,
        "foundation": foundation,
        "foundation_validation": foundation_validation,
    }
    check_counts(**counts)
    roles = site_roles(small_sites, large_sites)
    parameters = {"source": "icbm tissue", "recipe": RECIPE, "seed": seed, "roles": roles, "dicom": dicom, **counts}
    return build_demo(folder, parameters, roles, _sets(find_template(), seed, roles, counts, dicom))


def tissue_mask(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the likeliest class of each voxel: 0 background, 1 grey matter, 2 white matter.

    Args:
        maps: T1, grey and white matter in 0..1, ``3, D, H, W``; the background is what the last two leave of 1.
    """
    _, grey, white = maps
    mask: npt.NDArray[np.uint8] = np.stack([1 - grey - white, grey, white]).argmax(0).astype(np.uint8)
    return mask


def _sets(
    template_files: Sequence[Path], seed: int, roles: Mapping[str, str], counts: Mapping[str, int], dicom: bool
) -> Iterator[StudySet]:
    template = load_template(template_files)
    anatomy = {group: Anatomy(template, group, slices=1) for group in GROUPS}
    for name, role in roles.items():
        maker = _Maker(seed, name, (KIND_OF_ROLE[role],), series=dicom and stores_series(name))
        sizes = {
            "training": counts[f"{role}_training"],
            "validation": counts[f"{role}_validation"],
            "testing": counts["testing"],
        }
        splits = {split: maker.studies(split, anatomy[split], count) for split, count in sizes.items()}
        yield StudySet(f"sites/{name}", f"{NAME}: {name}", CLASSES, splits, ".nii")
    maker = _Maker(seed, "public", ("clinic", "hospital"))
    studies = maker.studies("training", anatomy["public"], counts["public"], labelled=False)
    yield StudySet("public", f"{NAME}: public, unlabelled", None, {"training": studies}, ".nii")
    maker = _Maker(seed, "foundation", FOUNDATION_SCANNERS)
    splits = {
        "training": maker.studies("training", anatomy["foundation"], counts["foundation"]),
        "validation": maker.studies("validation", anatomy["validation"], counts["foundation_validation"]),
    }
    yield StudySet("foundation", f"{NAME}: foundation model", CLASSES, splits, ".nii")


class _Maker:
    """Makes the studies of one site (or of the public or foundation set) on its own scanners, in turn."""

    def __init__(self, seed: int, name: str, kinds: Sequence[str], *, series: bool = False):
        self.seed = seed
        self.name = name
        self.series = series
        self.scanners = [draw_scanner(self._stream("scanner", index), kind) for index, kind in enumerate(kinds)]

    def _stream(self, *purpose: object) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "tissue", self.name, *purpose))

    def studies(self, split: str, anatomy: Anatomy, count: int, *, labelled: bool = True) -> Iterator[Study]:
        """Yield studies, each with its mask where they are labelled."""
        for index in range(count):
            scanner = self.scanners[index % len(self.scanners)]
            image, mask = make_slice(anatomy, scanner, self._stream(split, index))
            patient = f"{self.name}-{split}-{index:04d}"
            content = as_series(image, self.name, patient, self.seed) if self.series else as_nifti(image)
            yield Study(content, patient, as_nifti(mask) if labelled else None)


def make_slice(anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator) -> tuple[Scan, Scan]:
    """Make one study: the slice and its mask; the slice's tilt is left out of their geometry."""
    slab = anatomy.draw(rng)
    image = acquire(contrast(slab.maps, scanner), scanner, rng)
    mask = tissue_mask(slab.maps)
    return Scan(image, slab.spacing, slab.centre), Scan(mask, slab.spacing, slab.centre)
