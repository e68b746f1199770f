"""The networks that a site knows by name, and which of them it deploys."""

import copy
from collections.abc import Mapping, Sequence
from statistics import fmean

from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.networks import MeanOfProbabilities, balancing_offset


class SiteNetworks:
    """A site's networks by the names that ``metrics.csv`` gives them. All are live: what trains one changes it here.

    Args:
        site: its name, for messages.
        exchanged: the network that the site trains and sends.
        trained: what it is called; by default ``proxy`` beside a large network, else ``surrogate``.
        large: the personal large network, where there is one.
        deployed: the names of those whose probabilities are averaged as ``deployed``; by default the large network
            where there is one, else the exchanged one.
        offset: added to the logits of networks that learned from this site's images last, one number a class, when they
            are deployed; empty for nothing.
    """

    def __init__(
        self,
        site: str,
        exchanged: nn.Module,
        *,
        trained: str | None = None,
        large: nn.Module | None = None,
        deployed: Sequence[str] = (),
        offset: Sequence[float] = (),
    ) -> None:
        self.site = site
        self.exchanged = exchanged
        self.large = large
        name = trained or ("surrogate" if large is None else "proxy")
        self.trained = (name,) if large is None else (name, "large")
        self.deployed = tuple(deployed) or self.trained[-1:]
        self.received = copy.deepcopy(exchanged)
        self.added: dict[str, nn.Module] = {}
        self._offset = self._received_offset = tuple(offset)

    def __getitem__(self, name: str) -> nn.Module:
        """Return a network of the site.

        Args:
            name: one that the site trains, ``global`` (as last received), one that was added (``local``,
                ``fine-tuned``), or ``deployed``, the mean of the probabilities of some of these.

        Raises:
            FedHelpError: when there is no such network.
        """
        known = {self.trained[0]: self.exchanged, "global": self.received, **self.added}
        if self.large is not None:
            known["large"] = self.large
        if name == "deployed":
            return MeanOfProbabilities(*(known[part] for part in self.deployed), offset=self.deployed_offset)
        if name not in known:
            raise FedHelpError(f"{self.site}: has no network {name!r}; it has {', '.join(known)} and deployed")
        return known[name]

    def add(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Make another network known, of the size of the site's own, e.g. the one trained on its data alone."""
        self.added[name] = copy.deepcopy(self.exchanged if self.large is None else self.large)
        self.added[name].load_state_dict(dict(weights))

    def hear_class_counts(self, counts: Sequence[int]) -> None:
        """Balance ``global``, where deployed networks are balanced at all, by what all sites' images together were."""
        if self._offset:
            self._received_offset = balancing_offset(counts)

    @property
    def deployed_offset(self) -> tuple[float, ...]:
        """What is added to the logits of ``deployed``: the mean of what its networks need."""
        needed = [self._received_offset if name == "global" else self._offset for name in self.deployed]
        return tuple(fmean(values) for values in zip(*needed, strict=True))
