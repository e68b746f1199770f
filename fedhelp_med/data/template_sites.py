"""What the demos on the ICBM 2009 template share: their sites, scanners, public set and foundation model's set.

Nobody's scan is in them: a study is drawn from the template, deformed and scanned by a simulated machine. The cells of
the template that a split uses belong to that split alone. The foundation model's training set uses cells that no site
has; its validation set uses the validation cells.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhelp_med.common.files import file_hash
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.demo import Counts, DemoData, Study, StudySet, build_demo, plan_sites, stores_series
from fedhelp_med.data.picture_sets import public_pictures
from fedhelp_med.data.scanners import Scanner, draw_scanner
from fedhelp_med.data.simulated_scan import Scan, as_nifti, as_series
from fedhelp_med.data.template import GROUPS, Anatomy, find_template, load_template

KIND_OF_ROLE = {"small": "clinic", "large": "hospital"}
FOUNDATION_SCANNERS = ("clinic", "hospital") * 4

Stream = Callable[..., np.random.Generator]
"""A random stream by its purpose."""


@dataclass(frozen=True)
class TemplateTask:
    """What is learned on the template.

    Attributes:
        source: names the task in the demo's parameters.
        stream: names its random streams.
        recipe: counts up when the same parameters give other bytes.
        title: of the datalists.
        classes: by index.
        slices: of a study.
        scans: yields each study of a split with its label, a class index or a mask, from the anatomy, the scanners,
            their number and a random stream.
        counts: the demo's own numbers of sites and studies.
    """

    source: str
    stream: str
    recipe: int
    title: str
    classes: Sequence[str]
    slices: int
    scans: Callable[[Anatomy, Sequence[Scanner], int, Stream], Iterator[tuple[Scan, int | Scan]]]
    counts: Counts


def make_template_sites(
    task: TemplateTask, folder: Path, seed: int, dicom: bool, public_zip: Path | None, given: Counts
) -> DemoData:
    """Write a task's studies and datalists.

    Small sites have a clinic's scanner each, large ones a hospital's. The public set, unlabelled, comes from one
    further scanner of either kind, the foundation model's labelled set from eight.

    Args:
        task: what is learned.
        folder: where; complete data with the same parameters is used again.
        seed: of everything; the same seed gives the same bytes.
        dicom: let every second site store DICOM MR series (of the same voxels) instead of NIfTI files.
        public_zip: a zip with one folder of pictures per class; they are the public set then, unlabelled.
        given: numbers of sites and studies other than the task's own.

    Raises:
        InputError: a count is out of range, nilearn is missing, the zip is damaged, or the folder holds other data.
    """
    roles, counts = plan_sites(task.counts, given)
    parameters = {"source": task.source, "recipe": task.recipe, "seed": seed, "roles": roles, "dicom": dicom, **counts}
    pictures = None
    if public_zip is not None:
        parameters["public_data"] = file_hash(public_zip)
        pictures = public_pictures(public_zip, counts["public"], seed)
    return build_demo(folder, parameters, roles, _sets(task, find_template(), seed, roles, counts, dicom, pictures))


def _sets(
    task: TemplateTask,
    template_files: Sequence[Path],
    seed: int,
    roles: Mapping[str, str],
    counts: Mapping[str, int],
    dicom: bool,
    pictures: StudySet | None,
) -> Iterator[StudySet]:
    template = load_template(template_files)
    anatomy = {group: Anatomy(template, group, task.slices) for group in GROUPS}
    for name, role in roles.items():
        maker = _Maker(task, seed, name, (KIND_OF_ROLE[role],), series=dicom and stores_series(name))
        sizes = {
            "training": counts[f"{role}_training"],
            "validation": counts[f"{role}_validation"],
            "testing": counts["testing"],
        }
        splits = {split: maker.studies(split, anatomy[split], count) for split, count in sizes.items()}
        yield StudySet(f"sites/{name}", f"{task.title}: {name}", task.classes, splits, ".nii")
    if pictures is None:
        maker = _Maker(task, seed, "public", ("clinic", "hospital"))
        studies = maker.studies("training", anatomy["public"], counts["public"], labelled=False)
        yield StudySet("public", f"{task.title}: public, unlabelled", None, {"training": studies}, ".nii")
    else:
        yield pictures
    maker = _Maker(task, seed, "foundation", FOUNDATION_SCANNERS)
    splits = {
        "training": maker.studies("training", anatomy["foundation"], counts["foundation"]),
        "validation": maker.studies("validation", anatomy["validation"], counts["foundation_validation"]),
    }
    yield StudySet("foundation", f"{task.title}: foundation model", task.classes, splits, ".nii")


class _Maker:
    """Makes the studies of one site (or of the public or foundation set) on its own scanners."""

    def __init__(self, task: TemplateTask, seed: int, name: str, kinds: Sequence[str], *, series: bool = False):
        self.task = task
        self.seed = seed
        self.name = name
        self.series = series
        self.scanners = [draw_scanner(self._stream("scanner", index), kind) for index, kind in enumerate(kinds)]

    def _stream(self, *purpose: object) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, self.task.stream, self.name, *purpose))

    def studies(self, split: str, anatomy: Anatomy, count: int, *, labelled: bool = True) -> Iterator[Study]:
        """Yield the studies of a split."""

        def stream(*purpose: object) -> np.random.Generator:
            return self._stream(split, *purpose)

        for index, (scan, label) in enumerate(self.task.scans(anatomy, self.scanners, count, stream)):
            patient = f"{self.name}-{split}-{index:04d}"
            content = as_series(scan, self.name, patient, self.seed) if self.series else as_nifti(scan)
            given = label if isinstance(label, int) else as_nifti(label)
            yield Study(content, patient, given if labelled else None)
