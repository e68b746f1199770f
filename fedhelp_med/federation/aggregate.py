"""Averaging updates: in the order of the sites' names, in float64, tensor by tensor.

Floating-point addition depends on its order, so the order is fixed; and float32 sums of many sites lose digits, so the
sums are float64 and are rounded once. One tensor of every site is held at a time, never all models.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.config import Weighting
from fedhelp_med.methods import Role

CHUNK = 1 << 15
"""Elements that are summed at a time, so that the float64 sum stays in the processor's cache."""

SHARED = 16
"""Chunks from which on they are shared among threads."""

State = Mapping[str, Tensor]


def site_weights(samples: Mapping[str, int], roles: Mapping[str, Role], weighting: Weighting) -> dict[str, float]:
    """Return the weight of each site in the mean; they sum to 1.

    Args:
        samples: training images by site.
        roles: role by site.
        weighting: ``samples``: n_i / n. ``uniform``: 1 / sites. ``role-balanced``: the roles that are present share
            the whole equally, and inside a role the sites by samples.
    """
    shares: dict[str, float]
    if weighting == "uniform":
        shares = dict.fromkeys(samples, 1.0)
    elif weighting == "samples":
        shares = {site: float(count) for site, count in samples.items()}
    else:
        totals: dict[Role, int] = {}
        for site, count in samples.items():
            totals[roles[site]] = totals.get(roles[site], 0) + count
        shares = {site: count / totals[roles[site]] for site, count in samples.items()}
    whole = sum(shares[site] for site in sorted(shares))
    return {site: shares[site] / whole for site in sorted(shares)}


def aggregate(
    updates: Mapping[str, State], weights: Mapping[str, float], base: State | None = None
) -> dict[str, Tensor]:
    """Return the weighted mean of the sites' states.

    Args:
        updates: by site, its state; a state may read its tensors from a file when asked for one.
        weights: by site; they have to sum to 1.
        base: the state to which the mean is added when the updates are differences.

    Raises:
        FedHelpError: when a site's keys or shapes differ from the others', or a value is not finite; it names the
            site and the key.
    """
    sites = sorted(updates)
    _check_keys(updates, sites, base)
    return {
        key: _mean(key, {site: updates[site][key] for site in sites}, weights, None if base is None else base[key])
        for key in updates[sites[0]]
    }


def _check_keys(updates: Mapping[str, State], sites: list[str], base: State | None) -> None:
    expected = set(updates[sites[0]] if base is None else base)
    for site in sites:
        if differing := sorted(expected.symmetric_difference(updates[site])):
            raise FedHelpError(
                f"aggregation: the keys of {site} differ from the others' in {', '.join(differing[:3])}"
                f"{' ...' if len(differing) > 3 else ''}; all sites must exchange the same network"
            )


def _mean(key: str, tensors: Mapping[str, Tensor], weights: Mapping[str, float], base: Tensor | None) -> Tensor:
    first = next(iter(tensors.values()))
    for site, tensor in tensors.items():
        if tensor.shape != first.shape:
            raise FedHelpError(
                f"aggregation: {key} of {site} has the shape {tuple(tensor.shape)}, elsewhere {tuple(first.shape)}; "
                "all sites must exchange the same network"
            )
    flat = {site: tensor.detach().reshape(-1) for site, tensor in tensors.items()}
    mean = torch.empty_like(first, memory_format=torch.contiguous_format)
    out = mean.reshape(-1)
    start = None if base is None else base.detach().reshape(-1)

    def sum_up(begins: range) -> bool:
        """Fill the chunks that begin there; return whether all their values are finite."""
        total = torch.empty(min(CHUNK, out.numel()), dtype=torch.float64)
        wide = torch.empty_like(total)
        finite = True
        for begin in begins:
            end = min(begin + CHUNK, out.numel())
            size = end - begin
            total[:size] = 0 if start is None else start[begin:end]
            for site, tensor in flat.items():
                wide[:size] = tensor[begin:end]
                total[:size].add_(wide[:size], alpha=weights[site])
            finite = finite and bool(torch.isfinite(total[:size].sum()))
            # Counters of batch normalisation are whole numbers: round them, do not truncate.
            out[begin:end] = total[:size] if mean.is_floating_point() else total[:size].round()
        return finite

    if not all(_in_threads(sum_up, out.numel())):
        raise FedHelpError(f"aggregation: {key} is not finite at {_culprit(flat)}; its training diverged")
    return mean


def _in_threads(sum_up: Callable[[range], bool], elements: int) -> list[bool]:
    """Share the chunks among torch's threads, where there are enough of them; no sum depends on how many there are."""
    threads = torch.get_num_threads()
    if threads == 1 or elements < SHARED * CHUNK:
        return [sum_up(range(0, elements, CHUNK))]
    shares = [range(first * CHUNK, elements, threads * CHUNK) for first in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(sum_up, shares))


def _culprit(tensors: Mapping[str, Tensor]) -> str:
    return next((site for site, tensor in tensors.items() if not torch.isfinite(tensor.double()).all()), "the server")
