"""Grids of images and masks: whether two are the same, or the same but for the order and the direction of their axes.

An affine is ``4, 4`` and leads from an index to RAS mm. A grid of two axes is one of three whose last has length 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]

APART = 1.0  # mm between the corners of an image and of its mask


@dataclass(frozen=True)
class Turn:
    """How the axes of one grid become those of another.

    Attributes:
        order: the axis of the first grid that becomes each axis of the second.
        flips: axes of the second grid that run the other way.
    """

    order: tuple[int, ...]
    flips: tuple[int, ...]

    @property
    def is_none(self) -> bool:
        """Whether nothing is turned."""
        return self.order == (0, 1, 2) and not self.flips


def known_place(affine: Any) -> Affine | None:
    """Return an affine, or None for one that says nothing: that of pictures, and of masks without a place."""
    if affine is None or np.array_equal(affine, np.eye(4)):
        return None
    return np.asarray(affine, dtype=np.float64)


def corner_distance(shape: Sequence[int], affine: Affine | None, other: Affine | None) -> float:
    """Return the largest distance, in mm, between the corners of two grids of one shape; 0 where one has no place."""
    if affine is None or other is None:
        return 0.0
    corners = np.array(np.meshgrid(*[(0, length - 1) for length in _three(shape)])).reshape(3, -1)
    points = np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.abs((affine - other) @ points).max())


def turn_between(shape: Sequence[int], affine: Affine, target_shape: Sequence[int], target: Affine) -> Turn | None:
    """Return how a grid is turned into another by exchanging and flipping axes; None where that does not do.

    Args:
        shape: of the grid, at most three axes of space.
        affine: of the grid.
        target_shape: of the other grid.
        target: of the other grid.
    """
    if max(len(shape), len(target_shape)) > 3:
        return None
    lengths = _three(shape)
    steps = np.rint((np.linalg.inv(target) @ affine)[:3, :3])
    if sorted(np.abs(steps).argmax(axis=1)) != [0, 1, 2] or (np.abs(steps).sum(axis=1) != 1).any():
        return None
    order = tuple(int(axis) for axis in np.abs(steps).argmax(axis=1))
    flips = tuple(axis for axis in range(3) if steps[axis, order[axis]] < 0)
    back = np.zeros((4, 4))  # from an index of the other grid to one of this
    back[3, 3] = 1
    for axis, source in enumerate(order):
        back[source, axis] = -1 if axis in flips else 1
        back[source, 3] = lengths[source] - 1 if axis in flips else 0
    if [lengths[source] for source in order] != _three(target_shape):
        return None
    return Turn(order, flips) if corner_distance(target_shape, affine @ back, target) <= APART else None


def turned(values: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """Return a volume, or a slice as a volume of one, with its axes exchanged and flipped: three axes."""
    return np.flip(values.reshape(_three(values.shape)).transpose(turn.order), turn.flips)


def _three(shape: Sequence[int]) -> list[int]:
    return [*list(shape)[:3], 1, 1, 1][:3]
