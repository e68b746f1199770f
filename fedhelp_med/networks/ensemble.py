"""Several networks that answer as one."""

import math

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
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        if not networks:
            raise ValueError("MeanOfProbabilities needs at least one network")
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``B, C[, spatial]`` of the mean probabilities."""
        outputs: list[Tensor] = [network(image) for network in self.networks]
        if len(outputs) == 1:
            return outputs[0]
        if outputs[0].shape[1] == 1:
            return _log_mean([logsigmoid(z) for z in outputs]) - _log_mean([logsigmoid(-z) for z in outputs])
        return _log_mean([log_softmax(z, dim=1) for z in outputs])


def _log_mean(logarithms: list[Tensor]) -> Tensor:
    return torch.stack(logarithms).logsumexp(0) - math.log(len(logarithms))
