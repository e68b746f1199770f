"""Aggregation: order, precision, weights, and failures that name their site."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.aggregate import CHUNK, SHARED, aggregate, site_weights

ROLES = {"a": "small", "b": "small", "c": "large"}


def test_weights_by_samples_uniform_and_role_balanced():
    samples = {"a": 10, "b": 30, "c": 160}
    assert site_weights(samples, ROLES, "samples") == {"a": 0.05, "b": 0.15, "c": 0.8}
    assert site_weights(samples, ROLES, "uniform") == dict.fromkeys("abc", 1 / 3)
    # Each role has one half; inside the small role 10 : 30.
    assert site_weights(samples, ROLES, "role-balanced") == pytest.approx({"a": 0.125, "b": 0.375, "c": 0.5})


def test_role_balanced_gives_everything_to_the_only_role_present():
    assert site_weights({"a": 1, "b": 3}, ROLES, "role-balanced") == {"a": 0.25, "b": 0.75}


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 10**6), min_size=1),
    st.sampled_from(["samples", "uniform", "role-balanced"]),
)
def test_weights_sum_to_one_and_are_positive(samples, weighting):
    weights = site_weights(samples, ROLES, weighting)
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights) == sorted(samples)
    assert all(weight > 0 for weight in weights.values())


def test_mean_by_hand():
    updates = {"a": {"w": torch.tensor([1.0, 2.0])}, "c": {"w": torch.tensor([5.0, -2.0])}}
    mean = aggregate(updates, {"a": 0.25, "c": 0.75})
    assert torch.equal(mean["w"], torch.tensor([4.0, -1.0]))


def test_differences_are_added_to_the_base():
    base = {"w": torch.tensor([10.0])}
    updates = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([3.0])}}
    assert aggregate(updates, {"a": 0.5, "b": 0.5}, base)["w"].item() == 12.0
    assert base["w"].item() == 10.0


def test_one_site_gives_its_own_weights_back_to_the_bit():
    state = {"w": torch.randn(3, CHUNK // 2 + 7), "n": torch.tensor(5)}
    mean = aggregate({"a": state}, {"a": 1.0})
    assert all(torch.equal(mean[key], state[key]) for key in state)


def test_order_of_arrival_does_not_matter_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    states = {name: {"w": torch.randn(1000, generator=generator)} for name in "abcd"}
    weights = site_weights(dict.fromkeys("abcd", 7), dict.fromkeys("abcd", "small"), "samples")
    means = [
        aggregate({name: states[name] for name in order}, weights)["w"] for order in itertools.permutations("abcd")
    ]
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_sums_are_float64():
    # In float32, 1e8 + 1 - 1e8 loses the 1.
    updates = {name: {"w": torch.tensor([value])} for name, value in {"a": 1e8, "b": 1.0, "c": -1e8}.items()}
    mean = aggregate(updates, dict.fromkeys("abc", 1 / 3))
    assert mean["w"].item() == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.sampled_from([1, 3, CHUNK - 1, CHUNK, CHUNK + 1]))
def test_chunks_equal_the_plain_formula(sites, size):
    generator = torch.Generator().manual_seed(size)
    states = {f"s{i}": {"w": torch.randn(size, generator=generator)} for i in range(sites)}
    weights = {name: (i + 1) / (sites * (sites + 1) / 2) for i, name in enumerate(states)}
    plain = sum(weights[name] * state["w"].double() for name, state in states.items())
    # One rounding apart at most: the processor may fuse multiplication and addition.
    torch.testing.assert_close(aggregate(states, weights)["w"], plain.float(), rtol=1.2e-7, atol=1e-12)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_change_no_bit_and_miss_no_damage(threads):
    size = SHARED * CHUNK + 7
    updates = {f"site-{index}": {"w": torch.randn(size)} for index in range(3)}
    weights = {"site-0": 0.5, "site-1": 0.3, "site-2": 0.2}
    means = []
    for count in (1, 2, 3):
        threads(count)
        means.append(aggregate(updates, weights)["w"])
    assert torch.equal(means[0], means[1]) and torch.equal(means[0], means[2])
    updates["site-1"]["w"][-1] = float("nan")
    with pytest.raises(FedHelpError, match="w is not finite at site-1"):
        aggregate(updates, weights)


def test_counters_are_rounded_and_keep_their_type():
    updates = {"a": {"n": torch.tensor(10)}, "b": {"n": torch.tensor(13)}}
    mean = aggregate(updates, {"a": 0.5, "b": 0.5})["n"]
    assert mean.dtype == torch.int64 and mean.item() == 12  # 11.5 rounds to even


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_names_site_and_key(value):
    updates = {"a": {"w": torch.ones(4)}, "b": {"w": torch.tensor([1.0, value, 1.0, 1.0])}}
    with pytest.raises(FedHelpError, match=r"w is not finite at b"):
        aggregate(updates, {"a": 0.5, "b": 0.5})


def test_other_keys_or_shapes_name_site_and_key():
    good = {"w": torch.ones(2)}
    with pytest.raises(FedHelpError, match=r"keys of b differ .* extra"):
        aggregate({"a": good, "b": {**good, "extra": torch.ones(1)}}, {"a": 0.5, "b": 0.5})
    with pytest.raises(FedHelpError, match=r"w of b has the shape \(3,\), elsewhere \(2,\)"):
        aggregate({"a": good, "b": {"w": torch.ones(3)}}, {"a": 0.5, "b": 0.5})


def test_scalars_and_empty_tensors_survive():
    state = {"scalar": torch.tensor(2.5), "empty": torch.empty(0), "half": torch.ones(3, dtype=torch.float16)}
    mean = aggregate({"a": state, "b": state}, {"a": 0.5, "b": 0.5})
    assert all(torch.equal(mean[key], state[key]) and mean[key].dtype == state[key].dtype for key in state)
