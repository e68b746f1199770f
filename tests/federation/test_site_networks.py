"""SiteNetworks: which names a site's networks have, what ``deployed`` averages, and by what it is balanced."""

import pytest
import torch
from torch import nn

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.site_networks import SiteNetworks
from fedhelp_med.networks import balancing_offset


def linear(weight=1.0):
    network = nn.Linear(1, 2, bias=False)
    nn.init.constant_(network.weight, weight)
    return network


@pytest.mark.parametrize(
    ("large", "given", "trained", "deployed"),
    [
        (None, None, ("surrogate",), ("surrogate",)),
        (linear(), None, ("proxy", "large"), ("large",)),
        (None, "student", ("student",), ("student",)),
        (linear(), "student", ("student", "large"), ("large",)),
    ],
)
def test_what_a_site_trains_and_deploys_has_the_role_s_names(large, given, trained, deployed):
    networks = SiteNetworks("a", linear(), large=large, trained=given)
    assert (networks.trained, networks.deployed) == (trained, deployed)
    assert networks[trained[0]] is networks.exchanged
    assert large is None or networks["large"] is large


def test_the_global_network_is_a_copy_of_its_own():
    networks = SiteNetworks("a", linear(1.0))
    nn.init.zeros_(networks.exchanged.weight)
    assert torch.equal(networks["global"].weight, linear(1.0).weight)


@pytest.mark.parametrize("large", [None, nn.Linear(3, 2)])
def test_an_added_network_has_the_size_of_the_site_s_own(large):
    networks = SiteNetworks("a", linear(), large=large)
    own = linear() if large is None else large
    weights = {key: torch.full_like(tensor, 7) for key, tensor in own.state_dict().items()}
    networks.add("local", weights)
    assert torch.equal(networks["local"].weight, weights["weight"])
    assert not torch.equal(own.weight, weights["weight"])


def test_deployed_is_the_mean_of_probabilities_of_its_networks():
    networks = SiteNetworks("a", linear(0.0), deployed=("surrogate", "local"))
    networks.add("local", {"weight": torch.tensor([[2.0], [0.0]])})
    with torch.no_grad():
        image = torch.ones(1, 1)
        single = [networks[name](image).softmax(1) for name in ("surrogate", "local")]
        torch.testing.assert_close(networks["deployed"](image).softmax(1), (single[0] + single[1]) / 2)


def test_an_unknown_name_is_refused_with_those_that_there_are():
    networks = SiteNetworks("clinic-a", linear())
    with pytest.raises(FedHelpError, match="clinic-a: has no network 'large'; it has surrogate, global and deployed"):
        networks["large"]


def test_deployed_networks_are_balanced_by_what_each_learned_from():
    networks = SiteNetworks("a", linear(), deployed=("surrogate", "global"), offset=(0.5, -0.5))
    assert networks.deployed_offset == (0.5, -0.5)  # nobody has counted all sites' images
    networks.hear_class_counts([9, 1])
    low, high = balancing_offset([9, 1])
    assert networks.deployed_offset == pytest.approx(((0.5 + low) / 2, (-0.5 + high) / 2))
    assert networks["deployed"].offset.tolist() == pytest.approx(networks.deployed_offset)
    networks.deployed = ("global",)
    assert networks.deployed_offset == pytest.approx((low, high))
    networks.deployed = ("surrogate",)
    assert networks.deployed_offset == (0.5, -0.5)


def test_without_balancing_all_sites_counts_change_nothing():
    networks = SiteNetworks("a", linear(), deployed=("surrogate", "global"))
    networks.hear_class_counts([9, 1])
    assert networks.deployed_offset == () and networks["deployed"].offset is None
