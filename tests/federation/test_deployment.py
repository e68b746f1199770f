"""What a site deploys: the default, unless its own validation studies say otherwise by more than chance."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import write_site

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.deployment import Candidate, choose, scores
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.observer import Silent
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.handlers import CosineOverRounds

COLUMNS = ("label", "p(a)", "p(b)")


def table(labels, positives):
    p = torch.as_tensor(positives, dtype=torch.float64)
    return torch.stack((torch.as_tensor(labels, dtype=torch.float64), 1 - p, p), 1)


def area(labels, positives):
    pairs = [(a, b) for (x, a), (y, b) in itertools.product(zip(labels, positives, strict=True), repeat=2) if x > y]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def test_scores_are_areas_by_pair_counting_and_weights_are_repetitions():
    labels, positives = [0, 1, 0, 1, 1], [0.1, 0.4, 0.4, 0.8, 0.3]
    weights = torch.tensor([[1, 1, 1, 1, 1], [2, 0, 1, 1, 3]], dtype=torch.float64)
    repeated = [0, 0, 2, 3, 4, 4, 4]
    expected = [area(labels, positives), area([labels[i] for i in repeated], [positives[i] for i in repeated])]
    assert scores(COLUMNS, table(labels, positives), weights).tolist() == pytest.approx(expected)


def test_scores_of_dice_are_means_without_nan():
    dice = torch.tensor([[0.5, float("nan")], [0.7, 0.9]])
    weights = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    by_hand = [(0.6 + 0.9) / 2, ((3 * 0.5 + 0.7) / 4 + 0.9) / 2]
    assert scores(("dice_a", "dice_b"), dice, weights).tolist() == pytest.approx(by_hand)


def test_scores_of_several_classes_are_one_against_rest():
    studies = torch.tensor([[0, 0.8, 0.1, 0.1], [1, 0.2, 0.5, 0.3], [2, 0.3, 0.3, 0.4], [1, 0.6, 0.3, 0.1]])
    ones = torch.ones(1, 4, dtype=torch.float64)
    by_hand = [
        area([int(label == index) for label in studies[:, 0]], studies[:, 1 + index].tolist()) for index in range(3)
    ]
    assert scores(("label", "a", "b", "c"), studies, ones).item() == pytest.approx(sum(by_hand) / 3)


def test_an_equal_or_slightly_better_network_does_not_displace_the_default():
    labels = [0, 1] * 12
    default = Candidate(("surrogate", "global"), table(labels, [0.4, 0.6] * 11 + [0.6, 0.4]))
    slightly = Candidate(("local",), table(labels, [0.6, 0.41] + [0.4, 0.6] * 11))
    choice = choose(COLUMNS, default, [Candidate(("global",), default.studies), slightly], seed=0)
    assert choice.default and choice.networks == ("surrogate", "global")
    assert choice.evidence["global"]["difference"] == 0
    assert 0 < choice.evidence["local"]["difference"] < choice.evidence["local"]["standard_error"]


def test_a_clearly_better_network_is_deployed():
    labels = [0, 1] * 12
    generator = torch.Generator().manual_seed(0)
    default = Candidate(("surrogate", "global"), table(labels, torch.rand(24, generator=generator)))
    better = Candidate(("local",), table(labels, [0.1, 0.9] * 12))
    choice = choose(COLUMNS, default, [better], seed=0)
    assert not choice.default and choice.networks == ("local",)
    assert choice.evidence["local"]["score"] == 1


@pytest.mark.parametrize(
    ("labels", "better", "leaves"),
    [
        ([0, 1], [0.1, 0.9], False),
        ([0] * 7 + [1], [0.1] * 7 + [0.9], False),  # one image of a class would decide alone
        ([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9], True),
    ],
)
def test_a_few_studies_decide_nothing(labels, better, leaves):
    default = Candidate(("global",), table(labels, [0.5] * len(labels)))
    choice = choose(COLUMNS, default, [Candidate(("local",), table(labels, better))], seed=0)
    assert choice.default == (not leaves)
    assert np.isfinite(choice.evidence["local"]["standard_error"]) == leaves


def test_images_of_one_patient_do_not_count_as_many():
    labels, patients = [0, 0, 0, 0, 1, 1, 1, 1] * 4, [patient for patient in range(8) for _ in range(4)]
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(8, generator=generator).repeat_interleave(4)
    default = Candidate(("global",), table(labels, torch.rand(32, generator=generator)))
    other = Candidate(("local",), table(labels, (torch.tensor(labels) * 0.3 + noise).clamp(0, 1)))
    alone = choose(COLUMNS, default, [other], seed=0).evidence["local"]
    together = choose(COLUMNS, default, [other], seed=0, patients=patients).evidence["local"]
    assert together["difference"] == alone["difference"]
    assert together["standard_error"] > 1.3 * alone["standard_error"]
    own = choose(COLUMNS, default, [other], seed=0, patients=range(32)).evidence["local"]
    assert own == alone  # every study a patient of its own
    one_each = [0] * 16 + [1] * 16
    two = choose(COLUMNS, default, [other], seed=0, patients=one_each)
    assert two.default and two.evidence["local"]["standard_error"] == float("inf")


@pytest.mark.parametrize(("studies", "leaves"), [(1, False), (3, False), (4, True)])
def test_a_few_masks_decide_nothing(studies, leaves):
    default = Candidate(("global",), torch.full((studies, 1), 0.8))
    choice = choose(("dice_a",), default, [Candidate(("local",), torch.full((studies, 1), 0.801))], seed=0)
    assert choice.default == (not leaves)


def test_a_validation_split_of_one_class_leaves_the_default():
    default = Candidate(("global",), table([1, 1, 1], [0.1, 0.2, 0.3]))
    choice = choose(COLUMNS, default, [Candidate(("local",), table([1, 1, 1], [0.9, 0.9, 0.9]))], seed=0)
    assert choice.default


@pytest.mark.integration
def test_the_recommended_preset_warm_starts_gates_and_records_what_sites_deploy(federation_file, tmp_path):
    write_site(tmp_path / "public", training=16, seed=9)
    path = federation_file(
        preset="recommended",
        reference="local",
        public={"data": "public/datalist.json"},
        settings={"warm_start": 30, "large_warm_start": 5, "server_steps": 2, "gate": -1},
    )
    workspace = run_federation(load_federation(path), tmp_path / "run")
    events = workspace.events()
    kinds = [event["event"] for event in events]
    assert kinds == ["warm_start", "gate", "round", "round", *["deployment"] * 4, "finished"]
    gate = events[1]
    assert gate["open"] and sum(there for _, there in gate["counts"]["hospital-a"]) == 12
    for event in events[4:8]:
        own = "surrogate" if event["site"].startswith("clinic") else "large"
        assert set(event["evidence"]) >= {f"{own} + global", own, "global", "local", "fine-tuned"}
        meta = json.loads((tmp_path / "run/sites" / event["site"] / "deployed/meta.json").read_text())
        assert meta["networks"] == event["networks"]
        assert meta["offset"] == pytest.approx([0, 0])  # as many images of either class
        assert all(
            (tmp_path / "run/sites" / event["site"] / f"deployed/{n}.safetensors").is_file() for n in event["networks"]
        )


@pytest.mark.integration
@pytest.mark.parametrize(("gate", "rate"), [(-1, 2e-4), (1, 1e-3)], ids=["open", "shut"])
def test_fine_tuning_learns_at_the_rate_of_the_last_round(federation_file, tmp_path, monkeypatch, gate, rate):
    write_site(tmp_path / "public", training=16, seed=9)
    rates = []
    set_rate = CosineOverRounds.__call__

    def watched(self, engine):
        set_rate(self, engine)
        rates.append((engine.state.federated_round, engine.optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(CosineOverRounds, "__call__", watched)
    settings = {"warm_start": 2, "large_warm_start": 1, "server_steps": 1, "gate": gate}
    path = federation_file(preset="recommended", public={"data": "public/datalist.json"}, settings=settings)
    run_federation(load_federation(path), tmp_path / "run")
    trained, tuned = rates[:-4], rates[-4:]
    assert [rate for number, rate in trained if number == 2] == pytest.approx([rate] * 4)
    assert [rate for _, rate in tuned] == pytest.approx([rate] * 4)


@pytest.mark.integration
def test_the_server_stops_distilling_when_the_reported_results_are_past_the_warm_start(federation_file, tmp_path):
    write_site(tmp_path / "public", training=16, seed=9)
    settings = {"warm_start": 1, "large_warm_start": 0, "server_steps": 1, "server_part": 1, "gate": -1}
    settings |= {"learning_rate": 0.01}
    changes = {"preset": "recommended", "rounds": 6, "local_epochs": 2}
    path = federation_file(public={"data": "public/datalist.json"}, settings=settings, **changes)
    workspace = run_federation(load_federation(path), tmp_path / "run")
    results = [[row.value for row in workspace.rows() if is_key_result(row) and row.round == n] for n in range(6)]
    gains = [np.subtract(later, results[0]) for later in results[1:]]
    past = 1 + next(n for n, gain in enumerate(gains) if gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5)
    ended = [event["round"] for event in workspace.events() if event["event"] == "distillation_ended"]
    assert ended == [past + 1]

    expected = workspace.metrics_file.read_bytes()
    for number in (past + 1, past + 2):  # in the round that ends it, and in one that only knows of it
        again = tmp_path / f"stopped-{number}"
        with pytest.raises(KeyboardInterrupt):
            run_federation(load_federation(path), again, observer=StopIn(number))
        resumed = run_federation(load_federation(path), again, resume=True)
        assert resumed.metrics_file.read_bytes() == expected
        assert [e["round"] for e in resumed.events() if e["event"] == "distillation_ended"] == [past + 1]


class StopIn(Silent):
    """Interrupts a run in the middle of a round."""

    def __init__(self, number):
        self.number = number

    def site_done(self, number, site, step, outcome):
        if number == self.number and site == "clinic-b":
            raise KeyboardInterrupt


@pytest.mark.integration
def test_a_public_set_that_fills_no_batch_is_refused(federation_file, tmp_path):
    write_site(tmp_path / "public", training=4, seed=9)
    path = federation_file(
        preset="recommended",
        public={"data": "public/datalist.json"},
        overrides={"public#dataloader#drop_last": True, "public#dataloader#batch_size": 8},
    )
    with pytest.raises(InputError, match="public set: it gives no batch"):
        run_federation(load_federation(path), tmp_path / "run")


def is_key_result(row):
    return (row.model, row.split, row.metric) == ("global", "validation", "auc")


@pytest.mark.integration
def test_a_shut_gate_leaves_the_initial_weights_as_they_were(federation_file, tmp_path):
    write_site(tmp_path / "public", training=16, seed=9)
    changes = {"public": {"data": "public/datalist.json"}, "rounds": 1, "preset": "recommended"}
    shut = run_federation(
        load_federation(federation_file(settings={"warm_start": 5, "gate": 1}, **changes)), tmp_path / "shut"
    )
    never = run_federation(load_federation(federation_file(settings={"warm_start": 0}, **changes)), tmp_path / "never")
    assert shut.metrics_file.read_bytes() == never.metrics_file.read_bytes()
    assert [event["open"] for event in shut.events() if event["event"] == "gate"] == [False]
