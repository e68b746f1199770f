"""Intensity presets: CT windows by name, MR z-score in the foreground, radiographs."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TransformBackends, convert_to_tensor

from fedhelp_med.common.errors import InputError

CT_WINDOWS: dict[str, tuple[float, float]] = {
    "brain": (40, 80),
    "stroke": (40, 40),
    "subdural": (75, 215),
    "soft-tissue": (50, 400),
    "mediastinum": (50, 350),
    "abdomen": (60, 400),
    "liver": (60, 160),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "angiography": (300, 600),
}
"""Centre and width in HU, as they are usual at the workstation."""

TINY = 1e-8


class LinearIntensity(InvertibleTransform):  # type: ignore[misc]  # monai is untyped here
    """Subtract, divide, and perhaps clip to 0..1; a subclass says by what. What was clipped cannot come back.

    Args:
        clip: clip the result to 0..1.
    """

    backend: ClassVar[list[TransformBackends]] = [TransformBackends.TORCH]

    def __init__(self, clip: bool) -> None:
        self.clip = clip

    @abstractmethod
    def limits(self, values: torch.Tensor) -> tuple[float, float]:
        """Return what is subtracted from an image ``C, H, W[, D]`` and by what it is divided."""

    def __call__(self, img: Any) -> Any:
        """Return the image ``C, H, W[, D]`` as float32 with its metadata."""
        image = convert_to_tensor(img, track_meta=get_track_meta(), dtype=torch.float32)
        shift, scale = self.limits(convert_to_tensor(image, track_meta=False))
        result = (image - shift) / (scale if abs(scale) > TINY else 1.0)
        if self.clip:
            result = result.clamp(0, 1)
        if isinstance(result, MetaTensor):
            self.push_transform(result, extra_info={"shift": shift, "scale": scale})
        return result

    def inverse(self, data: Any) -> Any:
        """Return the image in its former units.

        Raises:
            InputError: the image does not know what was done to it.
        """
        if not isinstance(data, MetaTensor):
            raise InputError(f"{type(self).__name__}.inverse: {type(data).__name__} has no metadata; use a MetaTensor")
        info = self.pop_transform(data)["extra_info"]
        scale = info["scale"] if abs(info["scale"]) > TINY else 1.0
        return data * scale + info["shift"]


class CTWindow(LinearIntensity):
    """A CT window in HU, to 0..1.

    Args:
        window: a name in ``CT_WINDOWS``, or centre and width in HU.

    Raises:
        InputError: an unknown name, or a width that is not above 0.

    Example:
        >>> CTWindow("lung")(torch.tensor([[-1350.0, -600.0, 150.0, 900.0]])).tolist()
        [[0.0, 0.5, 1.0, 1.0]]
    """

    def __init__(self, window: str | tuple[float, float] = "soft-tissue") -> None:
        super().__init__(clip=True)
        if isinstance(window, str):
            if window not in CT_WINDOWS:
                raise InputError(f"window: {window!r} is unknown; choose {', '.join(CT_WINDOWS)}, or centre and width")
            window = CT_WINDOWS[window]
        centre, width = window
        if width <= 0:
            raise InputError(f"window: a width of {width} HU; give centre and a width above 0")
        self.low, self.width = centre - width / 2, float(width)

    def limits(self, values: torch.Tensor) -> tuple[float, float]:
        """The window's lower end and its width."""
        return self.low, self.width


class MRZScore(LinearIntensity):
    """Mean 0 and standard deviation 1 in the foreground: the voxels above the mean of the image.

    MR intensities have no unit, and air is half of the image: statistics over everything depend on the field of view.
    """

    def __init__(self) -> None:
        super().__init__(clip=False)

    def limits(self, values: torch.Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the foreground."""
        values = values.double()
        foreground = values[values > values.mean()]
        if foreground.numel() == 0:  # a constant image
            foreground = values.flatten()
        return float(foreground.mean()), float(foreground.std(unbiased=False))


class Radiograph(LinearIntensity):
    """From the 1st to the 99th percentile to 0..1: collimators, letters and metal do not set the scale.

    Args:
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.

    Raises:
        InputError: percentiles out of order.
    """

    def __init__(self, lower: float = 1, upper: float = 99) -> None:
        super().__init__(clip=True)
        if not 0 <= lower < upper <= 100:
            raise InputError(f"percentiles: {lower} to {upper}; give two of 0 to 100, the lower one first")
        self.lower, self.upper = lower, upper

    def limits(self, values: torch.Tensor) -> tuple[float, float]:
        """The lower percentile, and the distance of the upper one."""
        ordered = values.flatten().sort().values
        low, high = (float(ordered[round((ordered.numel() - 1) * part / 100)]) for part in (self.lower, self.upper))
        return low, high - low


class _Dictionary(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Applies an array transform to the keys of an item, and back."""

    def __init__(self, keys: KeysCollection, transform: LinearIntensity, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images rescaled."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform(item[key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images in their former units."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform.inverse(item[key])
        return item


class CTWindowd(_Dictionary):
    """Dictionary form of :class:`CTWindow`.

    Args:
        keys: of the images.
        window: a name in ``CT_WINDOWS``, or centre and width in HU.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        window: str | tuple[float, float] = "soft-tissue",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, CTWindow(window), allow_missing_keys)


class MRZScored(_Dictionary):
    """Dictionary form of :class:`MRZScore`.

    Args:
        keys: of the images.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, MRZScore(), allow_missing_keys)


class Radiographd(_Dictionary):
    """Dictionary form of :class:`Radiograph`.

    Args:
        keys: of the images.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self, keys: KeysCollection, lower: float = 1, upper: float = 99, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, Radiograph(lower, upper), allow_missing_keys)
