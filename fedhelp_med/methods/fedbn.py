"""FedBN: normalisation layers stay at their sites (Li et al. 2021, arXiv 2102.07623)."""

from fedhelp_med.methods.fedavg import FedAvg


class FedBN(FedAvg):
    """FedAvg without the exchange of normalisation layers; here group normalisation's scale and shift as well.

    A site deploys its own network, the global weights with the site's normalisation: what the global network is at
    that site.
    """

    name = "fedbn"
    local_layers = "normalization"
