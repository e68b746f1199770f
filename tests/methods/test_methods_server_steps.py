"""The server's steps on public images: warm start, gate, distillation; and when FedHelp takes them."""

import copy
from collections.abc import Iterator, Mapping
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_plans import Known
from monai.bundle import ConfigParser
from torch import Tensor, nn

from fedhelp_med.handlers import GATE, KNOWLEDGE
from fedhelp_med.methods import create_method
from fedhelp_med.methods.base import CLASS_COUNTS
from fedhelp_med.methods.server_steps import (
    distil_updates,
    knows_the_task,
    overtaken,
    pooled_score,
    warm_start,
    zero_shot_gate,
)

Counts = dict[str, list[tuple[int, int]]]
GOOD: Counts = {"a": [(9, 10), (1, 1)], "b": [(0, 0), (9, 10)]}
CHANCE: Counts = {"a": [(5, 10), (5, 10)]}


class OnlyServer:
    """A server in memory: a tiny network, public batches, and sites that answer given counts."""

    def __init__(self, batches: list[dict[str, Tensor]], counts: Counts | None = None, channels: int = 2) -> None:
        self.round, self.rounds = 0, 4
        self.classes = ("Healthy", "Lesion")
        self.knowledge: Any = Known(classes=("healthy", "lesion"), model_name="stand-in 1", items=batches or [{}])
        self.signals: dict[str, Any] = {}
        self.updates: dict[str, Mapping[str, Tensor]] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.results: list[dict[str, float]] = []
        self._batches, self._counts, self._channels = batches, counts or {}, channels
        self._start = copy.deepcopy(self._network().state_dict())
        self.weights = {key: value.clone() for key, value in self._start.items()}

    def _network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, self._channels))

    def network(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        network = self._network()
        network.load_state_dict({**self._start, **(self.weights if weights is None else weights)})
        return network

    def public_batches(self, purpose: str) -> Iterator[dict[str, Tensor]]:
        return cycle(self._batches)

    def validation(self, number: int) -> Mapping[str, float]:
        return self.results[number] if number < len(self.results) else {}

    def count_recognised(self) -> Counts:
        return self._counts

    def record(self, event: str, **details: Any) -> None:
        self.events.append((event, details))


def public(*keys: str, channels: int = 2) -> list[dict[str, Tensor]]:
    image = torch.randn(8, 1, 2, 2)
    full = {"image": image, KNOWLEDGE: 4 * torch.randn(8, channels), "label": torch.randint(0, 2, (8,))}
    return [{"image": image, **{key: full[key] for key in keys}}]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def snapshot(server: OnlyServer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in server.weights.items()}


# The gate


def test_the_score_by_hand() -> None:
    # Class 0: 9 of 10, class 1: 1 + 9 of 1 + 10; mean (0.9 + 10/11) / 2, of which one half is chance
    assert pooled_score(GOOD) == pytest.approx(((0.9 + 10 / 11) / 2 - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        ({"a": [(4, 4), (6, 6)]}, 1.0),
        (CHANCE, 0.0),
        ({"a": [(10, 10), (0, 10)]}, 0.0),  # always the same class
        ({"a": [(0, 4), (0, 6)]}, -1.0),
        ({"a": [(1, 1), (0, 1), (0, 1)]}, 0.0),
        ({"a": [(4, 4), (0, 0)]}, 1.0),  # a class that nobody has does not count
        ({"a": [(0, 0), (0, 0)]}, 0.0),
        ({}, 0.0),
    ],
)
def test_scores(counts: Counts, score: float) -> None:
    assert pooled_score(counts) == pytest.approx(score)


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=2), min_size=1))
@settings(deadline=None)
def test_the_score_is_bounded_and_does_not_depend_on_how_images_are_spread(sites: list[Any]) -> None:
    counts = {str(n): [(right, right + wrong) for right, wrong in site] for n, site in enumerate(sites)}
    score = pooled_score(counts)
    assert -1 <= score <= 1
    pooled = [tuple(sum(site[k][part] for site in counts.values()) for part in (0, 1)) for k in (0, 1)]
    assert pooled_score({"all": pooled}) == pytest.approx(score)


def test_the_gate_opens_above_its_threshold_only() -> None:
    server, score = OnlyServer([], GOOD), pooled_score(GOOD)
    assert zero_shot_gate(server, score - 0.01)
    assert not zero_shot_gate(server, score)
    assert server.signals == {CLASS_COUNTS: [10, 11]}  # what there is, recognised or not
    (event, details), _ = server.events
    assert (event, details["open"], details["counts"]) == ("gate", True, GOOD)
    assert details["score"] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("classes", "known"),
    [(("healthy", "LESION"), True), (("lesion", "healthy"), False), (("healthy", "lesion", "other"), False)],
)
def test_the_task_is_known_by_its_class_names_in_order(classes: tuple[str, ...], known: bool) -> None:
    server = OnlyServer([])
    server.knowledge.classes = classes
    assert knows_the_task(server) == known
    server.knowledge = None
    assert not knows_the_task(server)


@pytest.mark.parametrize(("keys", "known"), [((KNOWLEDGE,), False), ((KNOWLEDGE, "label"), True)])
def test_labels_alone_know_the_task_only_where_there_are_any(keys: tuple[str, ...], known: bool) -> None:
    assert knows_the_task(OnlyServer(public(*keys)), labels_only=True) == known


# Training at the server


def divergence(server: OnlyServer, target: Tensor, image: Tensor) -> float:
    logits = server.network().train()(image)
    logits = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    return (target * (target.log() - logits.log_softmax(1))).sum(1).mean().item()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("keys", [(KNOWLEDGE,), (KNOWLEDGE, "label"), ("label",)], ids=" and ".join)
def test_a_warm_start_learns_what_is_known_of_the_public_images(keys: tuple[str, ...], channels: int) -> None:
    (batch,) = public(*keys)
    server = OnlyServer([batch], channels=channels)
    target = batch[KNOWLEDGE].softmax(1) if KNOWLEDGE in keys else nn.functional.one_hot(batch["label"]) * 0.98 + 0.01
    before, cold = divergence(server, target, batch["image"]), snapshot(server)
    warm_start(server, 80, learning_rate=0.02)
    assert divergence(server, target, batch["image"]) < before
    assert server.weights.keys() == cold.keys()
    assert not same(server.weights, cold)
    assert all(not value.requires_grad for value in server.weights.values())
    assert server.events == [("warm_start", {"steps": 80, "model": "stand-in 1"})]


def test_weights_that_stay_at_the_sites_are_not_invented() -> None:
    server = OnlyServer(public(KNOWLEDGE))
    server.weights = {key: value for key, value in server.weights.items() if not key.startswith("2.")}  # its norm
    warm_start(server, 2)
    assert not any(key.startswith("2.") for key in server.weights)


def test_distillation_goes_halfway_between_the_foundation_model_and_the_mean_of_the_sites() -> None:
    (batch,) = public(KNOWLEDGE, "label")
    server = OnlyServer([batch])
    server.updates = {name: OnlyServer([]).weights for name in ("b", "a")}
    with torch.no_grad():
        answers = [server.network(update).eval()(batch["image"]).softmax(1) for update in server.updates.values()]
    target = 0.5 * (answers[0] + answers[1]) / 2 + 0.5 * batch[KNOWLEDGE].softmax(1)
    before, updates = divergence(server, target, batch["image"]), copy.deepcopy(server.updates)
    distil_updates(server, 150, 0.02)
    assert divergence(server, target, batch["image"]) < 0.3 * before
    assert all(same(server.updates[name], update) for name, update in updates.items())


def test_without_a_foundation_model_the_sites_teach_alone() -> None:
    (batch,) = public("label")
    server = OnlyServer([batch])
    update = OnlyServer([]).weights
    update["2.running_mean"] += 2.0  # of the site's images: its network answers as for a patient, not as in training
    server.updates = {"a": update}
    with torch.no_grad():
        target = server.network(server.updates["a"]).eval()(batch["image"]).softmax(1)
    before = divergence(server, target, batch["image"])
    distil_updates(server, 150, 0.02)
    assert divergence(server, target, batch["image"]) < 0.3 * before


# Trust in the foundation model (foundation.follow_quality)


def weights_after(step: Any, batch: dict[str, Tensor], trust: float | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    server = OnlyServer([batch], GOOD)
    server.updates, server.round = {"a": OnlyServer([]).weights}, 1
    server.signals[GATE] = True
    if trust is not None:
        server.knowledge.trust = trust
    step(server)
    return server.weights


@pytest.mark.parametrize(
    "step",
    [
        lambda server: warm_start(server, 5),
        lambda server: distil_updates(server, 5, 0.01),
        lambda server: fedhelp().before_first_round(server),
        lambda server: fedhelp().after_aggregation(server),
        lambda server: create_method("fedavg-public", "paper", {"warm_start": 5}).before_first_round(server),
    ],
    ids=["warm start", "distillation", "fedhelp's start", "fedhelp's distillation", "fedavg-public's start"],
)
def test_trust_acts_at_the_server_wherever_the_knowledge_does(step: Any) -> None:
    batch = public(KNOWLEDGE, "label")[0]
    unknown = {key: batch[key] for key in ("image", "label")}
    plain = weights_after(step, batch, None)
    assert same(plain, weights_after(step, batch, 1.0))
    assert not same(plain, weights_after(step, batch, 0.5))
    assert same(weights_after(step, batch, 0.0), weights_after(step, unknown, None))


def test_a_model_of_half_trust_is_a_quarter_of_the_teacher() -> None:
    (batch,) = public(KNOWLEDGE, "label")
    server = OnlyServer([batch])
    server.knowledge.trust, server.updates = 0.5, {"a": OnlyServer([]).weights}
    with torch.no_grad():
        answer = server.network(server.updates["a"]).eval()(batch["image"]).softmax(1)
    target = 0.75 * answer + 0.25 * batch[KNOWLEDGE].softmax(1)
    before = divergence(server, target, batch["image"])
    distil_updates(server, 150, 0.02)
    assert divergence(server, target, batch["image"]) < 0.3 * before


@pytest.mark.parametrize(
    ("name", "role", "target"),
    [
        ("fedhelp", "small", "FoundationGuidance"),
        ("fedhelp", "large", "PublicWarmStart"),
        ("local-public", "small", "PublicWarmStart"),
    ],
)
def test_the_sites_handlers_are_told_how_far_to_trust(name: str, role: Any, target: str) -> None:
    changes = {"guidance": 1.0, "large_warm_start": 5} if name == "fedhelp" else {}
    handlers = create_method(name, "paper", changes).plan(role).handlers
    (found,) = [entry for entry in handlers if entry["_target_"].endswith(target)]
    parser = ConfigParser({"public": {"knowledge": None}, "trust": found["trust"]})
    assert parser.get_parsed_content("trust") == 1.0
    parser = ConfigParser({"public": {"knowledge": SimpleNamespace(trust=0.25)}, "trust": found["trust"]})
    assert parser.get_parsed_content("trust") == 0.25


# FedHelp's use of them


def fedhelp(**changes: Any) -> Any:
    return create_method("fedhelp", "recommended", {"warm_start": 3, "server_steps": 2, **changes})


def test_an_open_gate_keeps_the_warm_start() -> None:
    server = OnlyServer(public(KNOWLEDGE), GOOD)
    cold = snapshot(server)
    fedhelp(gate=0.5).before_first_round(server)
    assert server.signals[GATE]
    assert not same(server.weights, cold)
    assert [event for event, _ in server.events] == ["warm_start", "gate"]


@pytest.mark.parametrize("reason", ["shut", "other classes", "no public set"])
def test_a_shut_gate_leaves_the_network_as_it_was(reason: str) -> None:
    server = OnlyServer(public(KNOWLEDGE), CHANCE)
    if reason == "other classes":
        server.knowledge.classes = ("cat", "dog")
    if reason == "no public set":
        server.knowledge = None
    cold = snapshot(server)
    fedhelp().before_first_round(server)
    assert not server.signals[GATE]
    assert same(server.weights, cold)
    assert ("gate", False) in [(event, details.get("open")) for event, details in server.events]


def test_without_a_warm_start_nothing_happens() -> None:
    server = OnlyServer(public(KNOWLEDGE), GOOD)
    cold = snapshot(server)
    fedhelp(warm_start=0).before_first_round(server)
    assert (server.signals, server.events) == ({}, [])
    assert same(server.weights, cold)


@pytest.mark.parametrize(
    ("number", "signals", "acts"),
    [
        (1, {GATE: True}, True),
        (2, {GATE: True}, True),
        (3, {GATE: True}, False),
        (1, {GATE: False}, False),
        (1, {}, False),
    ],
)
def test_distillation_is_for_the_first_part_of_the_rounds_behind_the_gate(
    number: int, signals: dict[str, bool], acts: bool
) -> None:
    server = OnlyServer(public(KNOWLEDGE))
    server.round, server.signals, server.updates = number, signals, {"a": OnlyServer([]).weights}
    before = snapshot(server)
    fedhelp(server_part=0.5).after_aggregation(server)
    assert same(server.weights, before) != acts


AHEAD = [{"a": 0.7, "b": 0.5}, {"a": 0.5, "b": 0.6}]
PAST = [*AHEAD, {"a": 0.8, "b": 0.55}]


@pytest.mark.parametrize(
    ("results", "past"),
    [
        ([], None),
        (AHEAD, None),
        ([AHEAD[0], AHEAD[0]], None),  # as good is not better
        (PAST, 2),
        ([*PAST, AHEAD[1]], 2),  # to fall behind again does not undo it
        ([AHEAD[0], {"a": 0.84, "b": 0.52}], 1),  # by 0.08, and its standard error is 0.06
        ([AHEAD[0], {"a": 0.84, "b": 0.49}], None),  # 0.065 and 0.075
        ([AHEAD[0], {"a": 0.9}, {"b": 0.9}], None),  # the other site failed: one gain has no standard error
        ([{}, AHEAD[0]], None),
        ([{**AHEAD[0], "c": 0.5}, {"a": float("nan"), "b": 0.6, "c": 0.61}], 1),  # a split of one class has no AUC
        ([AHEAD[0], {"a": float("nan"), "b": 0.6}], None),
        ([AHEAD[0], {"a": float("nan"), "b": float("nan")}], None),
    ],
)
def test_the_sites_are_past_the_model_once_their_mean_on_validation_is_clearly_above_the_warm_start(
    results: list[dict[str, float]], past: int | None
) -> None:
    server = OnlyServer([])
    server.results, server.round = results, max(len(results), 1)
    assert overtaken(server) == past


def test_the_model_stops_teaching_at_the_server_when_the_sites_are_past_it() -> None:
    server = OnlyServer(public(KNOWLEDGE))
    server.rounds, server.signals, server.updates = 5, {GATE: True}, {"a": OnlyServer([]).weights}
    taught = []
    server.results = [*PAST, AHEAD[1], AHEAD[1]]
    for server.round in range(1, 6):
        before = snapshot(server)
        fedhelp(server_part=1.0).after_aggregation(server)
        taught.append(not same(server.weights, before))
    assert taught == [True, True, False, False, False]
    assert server.events == [("distillation_ended", {"reason": "the sites are past the warm start"})]
    fedhelp(server_part=1.0, server_gated=False).after_aggregation(server)
    assert not same(server.weights, before)


def test_the_papers_preset_has_no_server_steps() -> None:
    server = OnlyServer(public(KNOWLEDGE), GOOD)
    server.round, before = 1, snapshot(server)
    server.signals = {GATE: True}
    method = create_method("fedhelp", "paper", {})
    method.before_first_round(server)
    method.after_aggregation(server)
    assert same(server.weights, before)
    assert server.events == []


# FedAvg with a public start


@pytest.mark.parametrize("known", [True, False])
def test_fedavg_can_start_from_the_public_set_where_it_speaks_of_the_task(known: bool) -> None:
    server = OnlyServer(public("label"))
    if not known:
        server.knowledge.classes = ("cat", "dog")
    cold = snapshot(server)
    create_method("fedavg-public", "paper", {"warm_start": 3}).before_first_round(server)
    assert same(server.weights, cold) != known
    assert [(event, details["steps"]) for event, details in server.events] == [("warm_start", 3 if known else 0)]


def labels_only() -> Any:
    return create_method("fedhelp-labels-only", "recommended", {"warm_start": 3, "server_steps": 2, "gate": 0.5})


def test_with_labels_only_the_foundation_models_answers_change_nothing() -> None:
    ends = []
    labels = public("label")[0]
    for knowledge in (torch.randn(8, 2), None):
        torch.manual_seed(0)
        batch = {**labels} if knowledge is None else {**labels, KNOWLEDGE: knowledge}
        server = OnlyServer([batch], GOOD)
        server.updates = {"a": snapshot(server)}
        labels_only().before_first_round(server)
        assert server.signals[GATE]
        server.round = 1
        labels_only().after_aggregation(server)
        ends.append(server.weights)
    assert same(*ends)


def test_with_labels_only_and_no_labels_there_is_no_warm_start() -> None:
    server = OnlyServer(public(KNOWLEDGE), GOOD)
    cold = snapshot(server)
    labels_only().before_first_round(server)
    assert server.signals == {GATE: False}
    assert same(server.weights, cold)
    assert server.events == [("gate", {"open": False, "reason": "no public labels of the task's own classes"})]
