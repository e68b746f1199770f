"""What a network that never saw a site's images recognises there: the counts behind the zero-shot gate."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from monai.networks import eval_mode
from torch import Tensor, nn

from fedhelp_med.losses import as_categorical
from fedhelp_med.metrics import class_sums, recognised

Predictions = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Makes a pass over the images: logits (at least two channels) and labels, batch by batch."""


def count_by_class(predictions: Predictions) -> list[tuple[int, int]]:
    """Return, for each class, how many images (of masks: voxels) are recognised and how many there are.

    The logits are centred first, so that their mean over the classes' means is 0: another scanner shifts all scores
    alike, and it is what the network can tell apart that counts. Where a site has one class the shift cannot be told
    from the class, and the logits are taken as they are. There has to be an image.
    """
    sums = torch.stack([class_sums(logits, labels) for logits, labels in predictions()]).sum(0)
    present = sums[:, -1] > 0
    centre = (sums[present, :-1] / sums[present, -1:]).mean(0) if present.sum() > 1 else None
    counts = torch.stack([recognised(logits, labels, centre) for logits, labels in predictions()]).sum(0)
    return [(int(right), int(there)) for right, there in counts]


def predictions(network: nn.Module, loader: Any, trainer: Any, inferer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a network's logits and the labels of the loader's batches, prepared as the trainer does."""
    with torch.inference_mode(), eval_mode(network):
        for batch in loader:
            images, labels = trainer.prepare_batch(batch, trainer.state.device)[:2]
            yield as_categorical(inferer(images, network)), labels
