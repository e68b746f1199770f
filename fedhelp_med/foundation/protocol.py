"""What a foundation model is to the toolkit: named classes, one input, and an answer per image.

Whether the model is a file on this machine or a service behind an API, it is asked through
:class:`FoundationModel`. Clients, the ledger and the acquisition know nothing else about it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from monai.transforms import EnsureChannelFirst, Resize
from numpy.typing import NDArray

from fedhelp_med.common.errors import FedHelpError, InputError, first_line
from fedhelp_med.data.describe import describe_image
from fedhelp_med.transforms import LoadStudy, ToChannels

Array = NDArray[np.float32]
Kind = Literal["logits", "mask logits", "embedding"]
KINDS: tuple[Kind, ...] = ("logits", "mask logits", "embedding")
# Scanners leave a few extreme voxels; the percentiles between which intensities are stretched leave them out.
PERCENTILES = (0.5, 99.5)
# Raise it when the same file would give other pixels: the keys that a ledger remembers are then computed anew.
PREPROCESSING = 1


@dataclass(frozen=True)
class InputSpec:
    """The image that a foundation model takes.

    Attributes:
        channels: its channels, C.
        size: its spatial size in pixels, `(W, H)` or `(W, H, D)`: columns first, the axis order of MONAI's readers.
        value_range: the intensities that stand for the darkest and the brightest pixel.

    Raises:
        InputError: if an attribute makes no sense.
    """

    channels: int
    size: tuple[int, ...]
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not _is_count(self.channels):
            raise InputError(f"input.channels is {self.channels!r}: give a whole number, 1 or more")
        if len(self.size) not in (2, 3) or not all(_is_count(length) for length in self.size):
            raise InputError(f"input.size is {self.size!r}: give two or three whole numbers, 1 or more")
        low, high = map(float, self.value_range)
        object.__setattr__(self, "size", tuple(self.size))  # lists and integers of a JSON file: one form, one key
        object.__setattr__(self, "value_range", (low, high))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"input.value_range is {self.value_range!r}: give two numbers, the smaller one first")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, `C, W, H[, D]`."""
        return (self.channels, *self.size)

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON content."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def to_json(self) -> str:
        """Return the one JSON text of this specification, in which keys are sorted."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the specification that :meth:`to_dict` gave.

        Raises:
            InputError: if a key is missing, unknown, or has a value of another type.
        """
        unknown = sorted(set(content) - {"channels", "size", "value_range"})
        if unknown:
            raise InputError(f"input has the unknown key {unknown[0]!r}: use channels, size and value_range")
        try:
            return cls(content["channels"], content["size"], content.get("value_range", (0.0, 1.0)))
        except KeyError as error:
            raise InputError(f"input lacks {error.args[0]!r}: give channels, size and value_range") from None
        except (TypeError, ValueError):
            raise InputError(
                f"input is {dict(content)!r}: channels is a number, size a list of two or three numbers, "
                "value_range a list of two numbers"
            ) from None

    @classmethod
    def like(cls, path: str | Path, spatial_dims: int) -> Self:
        """Return the specification of a model that takes images as this one is.

        Raises:
            InputError: if the file cannot be read.
        """
        channels, *size = read_image(path, spatial_dims).shape
        return cls(channels, tuple(size))

    def preprocess(self, path: str | Path) -> Array:
        """Read an image and make it what the model takes: the same pixels on every call.

        Channels are made to fit (:class:`fedhelp_med.transforms.ToChannels`), axes that are too long are averaged
        over areas and axes that are too short interpolated linearly, and the 0.5th to 99.5th percentile of the
        intensities is stretched to ``value_range``; what lies beyond is clipped.

        Args:
            path: an image file.

        Returns:
            float32 array `C, W, H[, D]`.

        Raises:
            InputError: if the file cannot be read, or a pixel is not a finite number.
        """
        return self.fit(read_image(path, len(self.size)))

    def fit(self, pixels: Array) -> Array:
        """Make an image that was read what the model takes; see :meth:`preprocess`.

        Args:
            pixels: float32 `C, W, H[, D]`, of any size.
        """
        image = ToChannels(self.channels)(pixels)
        shrunk = tuple(min(have, want) for have, want in zip(image.shape[1:], self.size, strict=True))
        for size, mode in ((shrunk, "area"), (self.size, "bilinear" if len(self.size) == 2 else "trilinear")):
            if tuple(image.shape[1:]) != size:
                image = Resize(spatial_size=size, mode=mode)(image)
        dark, bright = np.percentile(image, PERCENTILES)
        low, high = self.value_range
        # numpy: torch's quantile, which MONAI's scaling calls, takes ten times longer
        scale = (high - low) / (bright - dark) if bright > dark else 0.0
        scaled = np.clip((np.asarray(image, dtype=np.float64) - dark) * scale + low, low, high)
        return np.ascontiguousarray(scaled, dtype=np.float32)


class Described(Protocol):
    """What identifies a model and tells how to read its answers, whether or not it is at hand to be asked."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def version(self) -> str:
        """The version: a model that would answer differently has another one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the channels of an answer."""

    @property
    def input(self) -> InputSpec:
        """The image that it takes."""

    @property
    def kind(self) -> Kind:
        """What an answer is."""


@runtime_checkable
class FoundationModel(Described, Protocol):
    """A model that is asked once for its knowledge of each public image.

    Its knowledge is of one ``kind``: ``logits`` (`B, K`), ``mask logits`` (`B, K, W, H[, D]`), both with one
    channel per class in the order of ``classes``, or an ``embedding`` (`B, K`).
    """

    def predict(self, batch: Array) -> Array:
        """Answer a batch of preprocessed images.

        Args:
            batch: float32 `B, C, W, H[, D]`, as :meth:`InputSpec.preprocess` makes them.

        Returns:
            float32 `B, K` or `B, K, W, H[, D]`.
        """


@dataclass(frozen=True)
class ModelDescription:
    """The description of a model, as a ledger keeps it: see :class:`Described`."""

    name: str
    version: str
    classes: tuple[str, ...]
    input: InputSpec
    kind: Kind = "logits"

    @classmethod
    def of(cls, model: Described) -> Self:
        """Return the description of ``model``."""
        return cls(model.name, model.version, tuple(model.classes), model.input, model.kind)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the description that :meth:`to_dict` gave."""
        spec = InputSpec.from_dict(content["input"])
        return cls(content["name"], content["version"], tuple(content["classes"]), spec, content["kind"])

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON content."""
        content = {"name": self.name, "version": self.version, "classes": list(self.classes), "kind": self.kind}
        return {**content, "input": self.input.to_dict()}

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def check_answer(model: Described, images: int, answer: NDArray[Any]) -> Array:
    """Return a model's answer as float32, or refuse it: a ledger keeps an answer for ever.

    Args:
        model: the model that answered.
        images: how many images it was asked about.
        answer: what it answered.

    Raises:
        FedHelpError: if there is not one answer per image, not one channel per class, or a value is not finite.
    """
    who = f"foundation model {model.name} {model.version}"
    answer = np.asarray(answer)
    if not np.issubdtype(answer.dtype, np.floating):
        raise FedHelpError(f"{who} answered with {answer.dtype} values: {model.kind} are floating-point numbers")
    axes = 2 + len(model.input.size) * (model.kind == "mask logits")
    if answer.ndim != axes:
        raise FedHelpError(f"{who} answered with shape {answer.shape}: {model.kind} have {axes} axes")
    if answer.shape[0] != images:
        raise FedHelpError(f"{who} answered for {answer.shape[0]} images of {images} that were sent")
    if model.classes and answer.shape[1] != len(model.classes):
        raise FedHelpError(
            f"{who} answered with {answer.shape[1]} channels, but has {len(model.classes)} classes "
            f"({', '.join(model.classes)}): correct its description"
        )
    if not np.isfinite(answer).all():
        bad = int((~np.isfinite(answer).reshape(images, -1).all(axis=1)).sum())
        raise FedHelpError(f"{who} answered {bad} of {images} images with values that are not finite (NaN or infinity)")
    return np.ascontiguousarray(answer, dtype=np.float32)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_image(path: str | Path, spatial_dims: int) -> Array:
    """Read an image as float32 `C, W, H[, D]`: columns first, as :class:`InputSpec` has it.

    Args:
        path: an image file of any kind that :class:`fedhelp_med.transforms.LoadStudy` reads.
        spatial_dims: 2 or 3; for 2 the slices of a volume are its channels.

    Raises:
        InputError: if the file cannot be read, has more or fewer axes, or a pixel that is not finite.
    """
    channel_dim = describe_image(Path(path), spatial_dims).channel_dim
    pixels = np.asarray(EnsureChannelFirst(channel_dim=channel_dim)(_load(path)), dtype=np.float32)
    if pixels.ndim != 1 + spatial_dims:
        raise InputError(
            f"the image {path} has {pixels.ndim - 1} spatial axes, the foundation model takes {spatial_dims}: "
            "choose images of its kind"
        )
    if not np.isfinite(pixels).all():
        raise InputError(f"the image {path} has pixels that are not finite numbers: repair or remove it")
    return pixels


def load_pixels(path: str | Path) -> NDArray[Any]:
    """Read an image as it is, whatever its axes.

    Raises:
        InputError: if the file cannot be read.
    """
    return np.asarray(_load(path))


def _load(path: str | Path) -> Any:
    try:
        return LoadStudy()(path)
    except Exception as error:  # readers raise whatever their libraries raise
        raise InputError(f"the image {path} cannot be read: {first_line(error)}") from error
