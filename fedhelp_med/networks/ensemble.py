"""Several networks that answer as one."""

import torch
from torch import Tensor, nn

PROBABILITY_FLOOR = 1e-12
"""Keeps the logarithm of an averaged probability finite."""


class MeanOfProbabilities(nn.Module):
    """The average of several networks' probabilities, given back as logits.

    With C channels the result is ``log(mean softmax)``, whose softmax is the mean; with one (sigmoid) channel it is
    the logit of the mean probability. So it stands wherever a single network stands.

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
            mean = torch.stack([output.sigmoid() for output in outputs]).mean(0)
            return torch.logit(mean, eps=PROBABILITY_FLOOR)
        mean = torch.stack([output.softmax(1) for output in outputs]).mean(0)
        return mean.clamp_min(PROBABILITY_FLOOR).log()
