"""Anatomy for the demo: slabs cut from the ICBM 2009 template, in cells that no two splits share.

The template (Fonov et al., NeuroImage 2011; 1 mm voxels, RAS axes) comes inside the package nilearn, which is
searched, not imported. It is symmetric between left and right, so a cell always holds both hemispheres: a
mirrored cell would be a leak.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from fedhelp_med.common.errors import InputError

SLAB_SIZE = 64  # voxels along x and y
SLAB_SLICES = 8

# Cells: two halves along y (posterior, anterior) and ten layers along z, in voxels of the template. One voxel
# stays unused between neighbours, so that interpolation cannot carry anything across.
Y_RANGES = {"posterior": (15, 116), "anterior": (117, 219)}
LAYER_FIRST, LAYER_HEIGHT, LAYER_PERIOD = 18, 11, 12

# The layers from the bottom up, interleaved so that every group sees low, middle and high anatomy.
CELL_GROUPS: dict[str, tuple[str | None, ...]] = {
    "posterior": (
        "foundation", "training", "testing", "validation", "foundation",
        "training", "public", "foundation", "testing", "validation",
    ),
    "anterior": (
        None, "foundation", "training", "public", "testing",
        "validation", "training", "foundation", "training", "foundation",
    ),
}  # fmt: skip
GROUPS = ("foundation", "public", "training", "validation", "testing")

MAPS = ("t1", "gm", "wm")
MINIMUM_TISSUE = 0.55  # of a slab's voxels that are grey or white matter
ATTEMPTS = 40  # places tried before the best so far is taken


@dataclass(frozen=True)
class Cell:
    """A block of the template that belongs to one group; ranges in voxels, the end is outside."""

    group: str
    y: tuple[int, int]
    z: tuple[int, int]


def cells() -> list[Cell]:
    """All cells, in a fixed order."""
    found = []
    for half, groups in CELL_GROUPS.items():
        for layer, group in enumerate(groups):
            bottom = LAYER_FIRST + layer * LAYER_PERIOD
            if group is not None:
                found.append(Cell(group, Y_RANGES[half], (bottom, bottom + LAYER_HEIGHT)))
    return found


def find_template() -> list[Path]:
    """Find the template's T1, grey-matter and white-matter maps inside the installed nilearn.

    Raises:
        InputError: nilearn is not installed, or does not hold the template.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError(
            "the demo's anatomy comes with nilearn, which is not installed; "
            "install the extra `demo`: pip install 'fedhelp-med[demo]'"
        )
    folder = Path(spec.origin).parent / "datasets" / "data"
    files = [folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz" for name in MAPS]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file}: the ICBM 2009 template is not in this nilearn; "
                "install the tested one: pip install --upgrade 'fedhelp-med[demo]'"
            )
    return files


def load_template(files: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """Read the maps that `find_template` found: ``3, X, Y, Z`` in 0..255."""
    return np.stack([np.asanyarray(nibabel.load(file).dataobj).astype(np.uint8) for file in files])


@dataclass(frozen=True)
class Slab:
    """One slab of anatomy.

    Attributes:
        maps: T1, grey and white matter in 0..1, ``3, D, H, W`` (z, y, x), float32.
        spacing: mm between voxels along x, y and between slices.
        centre: the middle of the slab in the template's millimetres (x, y, z).
    """

    maps: npt.NDArray[np.float32]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]


class Anatomy:
    """Draws slabs for one group. It keeps copies of that group's cells only, so it cannot read others.

    Args:
        template: ``3, X, Y, Z`` as from `load_template`.
        group: one of `GROUPS`.
        slices: of a slab.
    """

    def __init__(self, template: npt.NDArray[np.uint8], group: str, slices: int = SLAB_SLICES):
        self.slices = slices
        self.cells = [cell for cell in cells() if cell.group == group]
        self.blocks = []
        for cell in self.cells:
            block = template[:, :, slice(*cell.y), slice(*cell.z)]
            # z, map, y, x: a slice of the slab is then a picture with three channels
            self.blocks.append(torch.from_numpy(np.ascontiguousarray(block.transpose(3, 0, 2, 1))))

    def draw(self, rng: np.random.Generator) -> Slab:
        """Draw a slab: another person is another place, size, tilt and a smooth in-plane deformation."""
        best, best_tissue = None, -1.0
        for _ in range(ATTEMPTS):
            index = int(rng.integers(len(self.blocks)))
            grid, spacing, centre = self._place(rng, self.cells[index], self.blocks[index])
            tissue = self._tissue(self.blocks[index], grid, centre)
            if tissue > best_tissue:
                best, best_tissue = (index, grid, spacing, centre), tissue
            if tissue >= MINIMUM_TISSUE:
                break
        assert best is not None  # ATTEMPTS > 0
        index, grid, spacing, centre = best
        maps = _sample(self.blocks[index], grid, spacing[2], centre[2], self.slices)
        y, z = self.cells[index].y[0], self.cells[index].z[0]
        # the template's affine: voxel (98, 134, 72) is the origin
        return Slab(maps, spacing, (centre[0] - 98, centre[1] + y - 134, centre[2] + z - 72))

    def _place(
        self, rng: np.random.Generator, cell: Cell, block: torch.Tensor
    ) -> tuple[npt.NDArray[np.float32], tuple[float, float, float], tuple[float, float, float]]:
        """Choose sampling points ``H, W, 2`` (x, y in voxels of the block) that all lie inside the block."""
        step = float(rng.uniform(0.9, 1.1))
        thickness = float(rng.uniform(1.0, 1.15))
        angle = float(rng.uniform(-0.18, 0.18))
        ticks = (np.arange(SLAB_SIZE, dtype=np.float32) - (SLAB_SIZE - 1) / 2) * step
        x = np.cos(angle) * ticks[None, :] - np.sin(angle) * ticks[:, None]
        y = np.sin(angle) * ticks[None, :] + np.cos(angle) * ticks[:, None]
        points = np.stack([x, y], axis=-1)
        for axis in range(2):  # one slow wave of about 1.5 mm in each direction
            wave, phase = rng.uniform(-0.08, 0.08, size=2), rng.uniform(0, 2 * np.pi)
            points[..., axis] += 1.5 * np.sin(x * wave[0] + y * wave[1] + phase)
        room = np.array(block.shape[:1:-1]) - 1.0  # the largest x and y index
        low, high = -points.min(axis=(0, 1)), room - points.max(axis=(0, 1))
        centre_x, centre_y = (float(value) for value in rng.uniform(low, high))
        depth = thickness * (self.slices - 1)
        centre_z = float(rng.uniform(depth / 2, cell.z[1] - cell.z[0] - 1 - depth / 2))
        points += np.array([centre_x, centre_y])
        return points.astype(np.float32), (step, step, thickness), (centre_x, centre_y, centre_z)

    @staticmethod
    def _tissue(block: torch.Tensor, grid: npt.NDArray[np.float32], centre: tuple[float, float, float]) -> float:
        """The share of grey and white matter in the middle slice, on a coarse grid."""
        x, y = grid[::4, ::4].round().astype(np.int64).transpose(2, 0, 1)
        _, grey, white = block.numpy()[round(centre[2])]
        return float((grey[y, x].astype(np.int64) + white[y, x] > 127).mean())


def _sample(
    block: torch.Tensor, grid: npt.NDArray[np.float32], thickness: float, centre: float, count: int
) -> npt.NDArray[np.float32]:
    """Interpolate a block ``Z, 3, Y, X`` at the points of the grid in `count` slices: ``3, D, H, W``."""
    heights = centre + (np.arange(count) - (count - 1) / 2) * thickness
    lower = np.clip(np.floor(heights).astype(np.int64), 0, block.shape[0] - 2)
    weight = torch.from_numpy((heights - lower).astype(np.float32))[:, None, None, None]
    slices = torch.lerp(block[lower].float(), block[lower + 1].float(), weight) / 255
    size = torch.tensor([block.shape[3] - 1.0, block.shape[2] - 1.0])
    points = (torch.from_numpy(grid) / size * 2 - 1)[None]
    stack = slices.flatten(0, 1)[None]  # one picture with D * 3 channels
    sampled = torch.nn.functional.grid_sample(stack, points, padding_mode="border", align_corners=True)
    maps = sampled.reshape(count, len(MAPS), SLAB_SIZE, SLAB_SIZE).transpose(0, 1)
    return maps.contiguous().numpy()
