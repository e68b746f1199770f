"""What a stand-in learns: the class of an image, or a class at each of its pixels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhelp_med.foundation.masks import mask_of_size
from fedhelp_med.foundation.protocol import InputSpec, Kind
from fedhelp_med.metrics import accuracy, auc, mean_dice, study_dice
from fedhelp_med.networks import large_classifier, large_segmenter


class StandInTask(ABC):
    """One kind of label: its network, its loss and its metrics.

    Attributes:
        kind: of the stand-in's answers.
        what: what an image's label has to be.
    """

    kind: ClassVar[Kind]
    what: ClassVar[str]

    @abstractmethod
    def fits(self, label: Any) -> bool:
        """Whether a datalist's label is of this kind."""

    @abstractmethod
    def labels(self, entries: Sequence[Any], spec: InputSpec, classes: int) -> Tensor:
        """Return the labels of a datalist's items as one tensor."""

    @abstractmethod
    def network(self, channels: int, classes: int) -> nn.Module:
        """Return a new network, larger than a small site's."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the supervised loss, a scalar."""

    @abstractmethod
    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Return metrics over all images."""


class ClassTask(StandInTask):
    """Labels are class indices, ``N``; answers are ``B, K``."""

    kind = "logits"
    what = "class index"

    def fits(self, label: Any) -> bool:
        """Whether it is a number."""
        return isinstance(label, int)

    def labels(self, entries: Sequence[Any], spec: InputSpec, classes: int) -> Tensor:
        """Return ``N`` indices."""
        return torch.tensor([entry["label"] for entry in entries])

    def network(self, channels: int, classes: int) -> nn.Module:
        """Return the DenseNet of a large site."""
        return large_classifier(2, channels, classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return cross_entropy(logits, labels)

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Return accuracy and (macro-averaged) area under the ROC curve; None where a class has no image."""
        area = auc(logits, labels) if len(set(labels.tolist())) == logits.shape[1] else None
        return {"accuracy": accuracy(logits, labels), "auc": area}


class MaskTask(StandInTask):
    """Labels are masks, ``N, 1, W, H``; answers are ``B, K, W, H``."""

    kind = "mask logits"
    what = "mask"

    def __init__(self) -> None:
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def fits(self, label: Any) -> bool:
        """Whether it is a path."""
        return isinstance(label, str)

    def labels(self, entries: Sequence[Any], spec: InputSpec, classes: int) -> Tensor:
        """Return ``N, 1, W, H`` indices, resized by the nearest pixel's centre.

        Raises:
            InputError: for a mask that cannot be read, has several channels, or holds other values than the classes.
        """
        return torch.stack([mask_of_size(entry["label"], spec.size, classes) for entry in entries])[:, None]

    def network(self, channels: int, classes: int) -> nn.Module:
        """Return the UNet of a large site."""
        return large_segmenter(2, channels, classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return Dice loss plus cross-entropy."""
        loss: Tensor = self._loss(logits, labels)
        return loss

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Return pixel accuracy and the mean Dice coefficient of the classes but the first; None where none occurs."""
        dice = mean_dice(study_dice(logits, labels))
        pixels = (logits.argmax(1) == labels[:, 0]).double().mean().item()
        return {"accuracy": pixels, "dice_mean": None if math.isnan(dice) else dice}
