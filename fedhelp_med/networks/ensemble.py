"""Several networks that answer as one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid


class MeanOfProbabilities(nn.Module):
    """The average of several networks' probabilities, given back as logits.

    With C channels the result is ``log(mean softmax)``, whose softmax is the mean; with one (sigmoid) channel it is
    the logit of the mean probability. So it stands wherever a single network stands. All is done in logarithms: a
    probability of 1 would have an infinite logit.

    Args:
        networks: at least one module, all with the same output shape ``B, C[, spatial]``.
        offset: added to the logits, one number a class; e.g. ``balancing_offset``.
    """

    offset: Tensor | None

    def __init__(self, *networks: nn.Module, offset: Sequence[float] | None = None) -> None:
        super().__init__()
        if not networks:
            raise ValueError("MeanOfProbabilities needs at least one network")
        self.networks = nn.ModuleList(networks)
        self.register_buffer("offset", torch.tensor(offset) if offset else None, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``B, C[, spatial]`` of the mean probabilities."""
        logits = self._mean(image)
        if self.offset is None:
            return logits
        offset = self.offset.to(logits.device)  # the networks were on their device before the ensemble was made
        if logits.shape[1] == 1:
            return logits + (offset[1] - offset[0])
        return logits + offset.reshape(-1, *(1,) * (logits.ndim - 2))

    def _mean(self, image: Tensor) -> Tensor:
        outputs: list[Tensor] = [network(image) for network in self.networks]
        if len(outputs) == 1:
            return outputs[0]
        if outputs[0].shape[1] == 1:
            return _log_mean([logsigmoid(z) for z in outputs]) - _log_mean([logsigmoid(-z) for z in outputs])
        return _log_mean([log_softmax(z, dim=1) for z in outputs])


def balancing_offset(counts: Sequence[int]) -> tuple[float, ...]:
    """Return what makes rare classes as likely as frequent ones: ``-log((n_c + 1) / (n + C))``, with mean 0.

    A network that learned from ``n_c`` images of class c leans towards the frequent classes; with this added to its
    logits, the likeliest class is the one that maximises the balanced accuracy (Menon et al. 2021, arXiv 2007.07314,
    section 4.1; one is added to every count, so that a class without an image stays finite).
    """
    total = sum(counts) + len(counts)
    offsets = [-math.log((count + 1) / total) for count in counts]
    centre = sum(offsets) / len(offsets)
    return tuple(offset - centre for offset in offsets)


def _log_mean(logarithms: list[Tensor]) -> Tensor:
    return torch.stack(logarithms).logsumexp(0) - math.log(len(logarithms))
