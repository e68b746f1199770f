"""The demo's sites: real anatomy (the ICBM 2009 template), simulated scanners and simulated lesions.

Nobody's scan is in it: a *study* is a slab of the template, deformed and scanned by a simulated machine; half of
the studies hold simulated lesions. The cells of the template that a split uses belong to that split alone. The
foundation model's training set uses cells that no site has; its validation set uses the validation cells.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import DemoData, Study, StudySet, build_demo, check_counts, site_roles, stores_series
from fedhelp_med.data.lesions import add_distractors, add_lesions
from fedhelp_med.data.scanners import Scanner, acquire, contrast, draw_scanner
from fedhelp_med.data.simulated_scan import Scan, as_nifti, as_series
from fedhelp_med.data.template import GROUPS, Anatomy, find_template, load_template

RECIPE = 5  # counts up when the same parameters give other bytes
CLASSES = ("no lesion", "simulated lesion")
NAME = "ICBM 2009 template with simulated lesions"
KIND_OF_ROLE = {"small": "clinic", "large": "hospital"}
FOUNDATION_SCANNERS = ("clinic", "hospital") * 4


def make_icbm_sites(
    folder: Path,
    *,
    seed: int,
    small_sites: int = 4,
    large_sites: int = 2,
    small_training: int = 24,
    large_training: int = 300,
    small_validation: int = 24,
    large_validation: int = 60,
    testing: int = 100,
    public: int = 400,
    foundation: int = 1200,
    foundation_validation: int = 200,
    dicom: bool = True,
) -> DemoData:
    """Write the demo's studies (slabs of 64 x 64 x 8 voxels of about 1 mm, int16) and datalists.

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
    sites = {
        name: {
            "training": counts[f"{role}_training"],
            "validation": counts[f"{role}_validation"],
            "testing": testing,
        }
        for name, role in roles.items()
    }
    parameters = {"source": "icbm", "recipe": RECIPE, "seed": seed, "roles": roles, "dicom": dicom, **counts}
    sets = _sets(
        find_template(),
        seed,
        roles,
        sites,
        public,
        dicom,
        {"training": foundation, "validation": foundation_validation},
    )
    return build_demo(folder, parameters, roles, sets)


def _sets(
    template_files: Sequence[Path],
    seed: int,
    roles: dict[str, str],
    sites: dict[str, dict[str, int]],
    public: int,
    dicom: bool,
    foundation: dict[str, int],
) -> Iterator[StudySet]:
    template = load_template(template_files)
    anatomy = {group: Anatomy(template, group) for group in GROUPS}
    for name, role in roles.items():
        maker = _Maker(seed, name, (KIND_OF_ROLE[role],), series=dicom and stores_series(name))
        splits = {split: maker.studies(split, anatomy[split], count) for split, count in sites[name].items()}
        yield StudySet(f"sites/{name}", f"{NAME}: {name}", CLASSES, splits, ".nii")
    maker = _Maker(seed, "public", ("clinic", "hospital"))
    studies = maker.studies("training", anatomy["public"], public, labelled=False)
    yield StudySet("public", f"{NAME}: public, unlabelled", None, {"training": studies}, ".nii")
    maker = _Maker(seed, "foundation", FOUNDATION_SCANNERS)
    splits = {
        "training": maker.studies("training", anatomy["foundation"], foundation["training"]),
        "validation": maker.studies("validation", anatomy["validation"], foundation["validation"]),
    }
    yield StudySet("foundation", f"{NAME}: foundation model", CLASSES, splits, ".nii")


class _Maker:
    """Makes the studies of one site (or of the public or foundation set) on its own scanners."""

    def __init__(self, seed: int, name: str, kinds: Sequence[str], *, series: bool = False):
        self.seed = seed
        self.name = name
        self.series = series
        self.scanners = [draw_scanner(self._stream("scanner", index), kind) for index, kind in enumerate(kinds)]

    def _stream(self, *purpose: object) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "icbm", self.name, *purpose))

    def studies(self, split: str, anatomy: Anatomy, count: int, *, labelled: bool = True) -> Iterator[Study]:
        """Yield studies in random order, every second one with lesions; every scanner gets both classes."""
        order = self._stream(split, "order").permutation(count)
        for index, drawn in enumerate(order):
            label = int(drawn % 2)
            scanner = self.scanners[drawn // 2 % len(self.scanners)]
            scan = make_study(anatomy, scanner, label, self._stream(split, index))
            patient = f"{self.name}-{split}-{index:04d}"
            content = as_series(scan, self.name, patient, self.seed) if self.series else as_nifti(scan)
            yield Study(content, patient, label if labelled else None)


def make_study(anatomy: Anatomy, scanner: Scanner, label: int, rng: np.random.Generator) -> Scan:
    """Make one study, with simulated lesions when ``label`` is 1; the slab's tilt is left out of its geometry."""
    slab = anatomy.draw(rng)
    tissue = np.clip((slab.maps[1] + slab.maps[2] - 0.3) / 0.4, 0, 1)  # the maps are vague: 0.7 is tissue
    image = contrast(slab.maps, scanner)
    if label:
        image = add_lesions(image, tissue, slab.spacing, rng)
    image = add_distractors(image, tissue, slab.spacing, rng)
    return Scan(acquire(image, scanner, rng), slab.spacing, slab.centre)
