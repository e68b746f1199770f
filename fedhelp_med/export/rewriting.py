"""The same network in operators that onnxruntime runs faster; its answers stay the same."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, instance_norm, logsigmoid

from fedhelp_med.networks import MeanOfProbabilities
from fedhelp_med.networks.modules import set_module


def rewritten(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` (in evaluation mode) for ONNX; the network itself is left alone.

    - Group normalisation becomes instance normalisation of the groups and one batch normalisation that scales and
      shifts the channels. The exporter would write a multiplication and an addition, and read the array once more.
    - The mean of probabilities takes its maximum, exponential and sum over the channels; ``LogSoftmax`` along an axis
      that is not the last moves the whole array twice.
    """
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if name and type(module) is nn.GroupNorm and module.num_channels > module.num_groups:
            set_module(network, name, _GroupNorm(module))
    if isinstance(network, MeanOfProbabilities):
        offset = None if network.offset is None else network.offset.tolist()
        network = _MeanOfProbabilities(*network.networks, offset=offset)
    return network.eval()


class _GroupNorm(nn.Module):
    mean: Tensor
    variance: Tensor

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = layer.num_groups, layer.eps
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("mean", torch.zeros(layer.num_channels))
        self.register_buffer("variance", torch.ones(layer.num_channels))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.reshape(x.shape[0], self.groups, -1)
        normalised = instance_norm(groups, eps=self.eps).reshape(x.shape)
        if self.weight is None:
            return normalised
        return batch_norm(normalised, self.mean, self.variance, self.weight, self.bias, eps=0.0)


class _MeanOfProbabilities(MeanOfProbabilities):
    def _mean(self, image: Tensor) -> Tensor:
        outputs: list[Tensor] = [network(image) for network in self.networks]
        if len(outputs) == 1:
            return outputs[0]
        if outputs[0].shape[1] == 1:
            return _log_mean([logsigmoid(z) for z in outputs]) - _log_mean([logsigmoid(-z) for z in outputs])
        return _log_mean([_log_softmax(z) for z in outputs])


def _log_softmax(logits: Tensor) -> Tensor:
    shifted = logits - logits.amax(1, keepdim=True)
    return shifted - shifted.exp().sum(1, keepdim=True).log()


def _log_mean(logarithms: list[Tensor]) -> Tensor:
    total = logarithms[0]
    for other in logarithms[1:]:
        high, low = torch.maximum(total, other), torch.minimum(total, other)
        total = high + (1 + (low - high).exp()).log()
    return total - math.log(len(logarithms))
