"""Gradient surgery: a term that helps only where it does not oppose the loss that it joins."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def projected(term: Tensor, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return a scalar with the value of ``term`` whose gradient never opposes that of ``loss``.

    With g of the term and h of the loss, where ``g . h < 0`` the gradient becomes ``g - (g . h) / |h|^2 h``, else it
    stays g (PCGrad for one of two tasks: Yu et al. 2020, arXiv 2001.06782). It costs a second backward pass.

    Args:
        term: a scalar with a graph.
        loss: a scalar with a graph; both graphs can be used again afterwards.
        parameters: of both; one that ``loss`` does not reach keeps its gradient g.
    """
    tensors = [parameter for parameter in parameters if parameter.requires_grad]
    own = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    joining = torch.autograd.grad(term, tensors, retain_graph=True, allow_unused=True)
    pairs = [(g, h) for g, h in zip(joining, own, strict=True) if g is not None and h is not None]
    agreement = sum(((g * h).sum() for g, h in pairs), start=loss.new_zeros(()))
    length = sum((h.square().sum() for _, h in pairs), start=loss.new_zeros(()))
    share = (agreement.clamp(max=0) / length.clamp_min(torch.finfo(length.dtype).tiny)).detach()
    # A scalar that is linear in the parameters has just the gradient that it is given.
    linear = loss.new_zeros(())
    for parameter, g, h in zip(tensors, joining, own, strict=True):
        if g is not None:
            linear = linear + (parameter * (g if h is None else g - share * h)).sum()
    return term.detach() + (linear - linear.detach())
