"""What one acquisition may cost."""

import math
from dataclasses import dataclass

from fedhelp_med.common.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What one acquisition may cost at most; None is no limit.

    Attributes:
        images: that are sent.
        calls: requests with images, repetitions included.
        bytes: of the requests.
        rate: calls per second.

    Raises:
        InputError: for a limit that nothing could keep.
    """

    images: int | None = None
    calls: int | None = None
    bytes: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("images", self.images), ("calls", self.calls), ("bytes", self.bytes)):
            if limit is not None and limit < 1:
                raise InputError(f"max_{name} is {limit}: allow 1 or more, or leave it out")
        if self.rate is not None and not (self.rate > 0 and math.isfinite(self.rate)):
            raise InputError(f"rate is {self.rate}: give calls per second, more than 0")

    def room(self, size: int, spent: "Spent", image_bytes: int) -> tuple[int, str | None]:
        """Return how many of ``size`` images the next call may hold, and the limit that allows none.

        Args:
            size: images of a full batch.
            spent: what has been spent or set aside.
            image_bytes: what one image costs.
        """
        left = {
            "max_images": math.inf if self.images is None else self.images - spent.images,
            "max_calls": math.inf if self.calls is None or spent.calls < self.calls else 0,
            "max_bytes": math.inf if self.bytes is None else (self.bytes - spent.bytes) // image_bytes,
        }
        name = min(left, key=lambda limit: left[limit])
        return (0, name) if left[name] < 1 else (int(min(size, left[name])), None)


@dataclass(frozen=True)
class Spent:
    """What an acquisition has spent so far."""

    images: int
    calls: int
    bytes: int
