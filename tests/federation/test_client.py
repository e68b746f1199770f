"""FedHelpAlgo: equal to stock MONAI where nothing is added, and without its pitfalls."""

import copy
import json

import pytest
import torch
from conftest import BUNDLE, SMALL
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.federation.client import MODEL, ROUND, SPLIT, FedHelpAlgo
from fedhelp_med.federation.seeding import seed_round

SEED = 5
SMALL_ROLE, LARGE_ROLE = ["configs/train.json"], ["configs/train.json", "configs/train_large.json"]


@pytest.fixture
def overlay(site, tmp_path):
    """The config of one tiny site, as a file."""

    def write(name="a", **changes):
        datalist = site(name)
        content = {
            "dataset_dir": str(datalist.parent),
            "standalone": False,
            "class_names": ["0", "1"],
            "in_channels": 1,
            "channel_dim": "no_channel",
            **SMALL,
            **changes,
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def client(configs, overlay_file, name="a", **options):
    algo = FedHelpAlgo(
        BUNDLE,
        config_train_filename=[*configs, overlay_file],
        seed=SEED,
        has_large=len(configs) > 1,
        **options,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: name})
    return algo


def stock(configs, overlay_file, name="a", **options):
    algo = MonaiAlgo(
        str(BUNDLE),
        send_weight_diff=False,
        config_train_filename=[*configs, overlay_file],
        config_evaluate_filename=[*configs, "configs/evaluate.json", overlay_file],
        **options,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: name})
    return algo


def start(algo):
    return {key: tensor.detach().clone() for key, tensor in algo.trainer.network.state_dict().items()}


def assert_equal(one, other):
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])), key


def test_one_round_without_handlers_is_plain_monai_training(overlay):
    file = overlay(method_handlers=[])
    algo = client(SMALL_ROLE, file)
    weights = start(algo)
    algo.train(ExchangeObject(weights=weights))

    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs/train.json"), file])
    parser["max_epochs"] = 1
    trainer = parser.get_parsed_content("train#trainer")
    trainer.network.load_state_dict(weights)
    seed_round(trainer, derive_seed(SEED, "a", 1))
    trainer.run()
    assert_equal(algo.get_weights().weights, trainer.network.state_dict())


@pytest.mark.parametrize("configs", [SMALL_ROLE, LARGE_ROLE], ids=["small", "large"])
def test_several_rounds_without_handlers_equal_stock_monai_algo(overlay, configs):
    file = overlay(method_handlers=[])
    ours, theirs = client(configs, file, keep_optimizer=True), stock(configs, file)
    weights = start(ours)
    if len(configs) > 1:
        theirs.trainer.large_network.load_state_dict(ours.networks.large.state_dict())
    for number in (1, 2, 3):
        seed_round(theirs.trainer, derive_seed(SEED, "a", number))
        for algo in (ours, theirs):
            algo.train(ExchangeObject(weights=copy.deepcopy(weights)))
        result = ours.get_weights().weights
        assert_equal(result, theirs.get_weights().weights)
        assert not all(torch.equal(result[key], weights[key]) for key in weights)
        weights = result


def test_stock_monai_algo_runs_and_evaluates_both_roles_unchanged(overlay):
    for configs in (SMALL_ROLE, LARGE_ROLE):
        algo = stock(configs, overlay())
        weights = start(algo)
        algo.train(ExchangeObject(weights=weights))
        update = algo.get_weights()
        assert set(update.weights) == set(weights)
        assert set(algo.evaluate(update).metrics) == {"auc", "accuracy", "balanced_accuracy"}


def test_returned_weights_are_copies(overlay):
    algo = client(SMALL_ROLE, overlay())
    weights = start(algo)
    algo.train(ExchangeObject(weights=weights))
    first = algo.get_weights().weights
    kept = copy.deepcopy(first)
    algo.train(ExchangeObject(weights=weights))
    assert_equal(first, kept)


def test_differences_are_to_the_downloaded_weights(overlay):
    file = overlay()
    full, difference = client(SMALL_ROLE, file), client(SMALL_ROLE, file, send_weight_diff=True)
    weights = start(full)
    for algo in (full, difference):
        algo.train(ExchangeObject(weights=weights))
    update = difference.get_weights()
    assert update.weight_type == WeightType.WEIGHT_DIFF
    for key, tensor in full.get_weights().weights.items():
        assert torch.equal(update.weights[key], tensor - weights[key])


def test_no_tensor_of_the_large_network_is_exchanged_and_two_sites_share_none(overlay):
    one, other = client(LARGE_ROLE, overlay("a"), "a"), client(LARGE_ROLE, overlay("b"), "b")
    assert one.networks.large is not other.networks.large
    pointers = {parameter.data_ptr() for parameter in one.networks.large.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in other.networks.large.parameters()}
    # The sites start from different large networks and one small network.
    assert not torch.equal(next(one.networks.large.parameters()), next(other.networks.large.parameters()))
    assert_equal(start(one), start(other))

    one.train(ExchangeObject(weights=start(one)))
    update = one.get_weights().weights
    large = one.networks.large.state_dict()
    assert set(update) == set(one.trainer.network.state_dict())
    shapes_only_large = {tuple(t.shape) for t in large.values()} - {tuple(t.shape) for t in start(one).values()}
    assert shapes_only_large and not shapes_only_large & {tuple(tensor.shape) for tensor in update.values()}
    for tensor in update.values():
        assert not any(
            tensor.shape == t.shape and tensor.numel() > 8 and torch.equal(tensor, t) for t in large.values()
        )


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "empty"])
def test_weights_that_do_not_fit_stop_the_round(overlay, damage):
    algo = client(SMALL_ROLE, overlay())
    before = start(algo)
    weights = start(algo)
    key = next(iter(weights))
    if damage == "missing":
        del weights[key]
    elif damage == "extra":
        weights["large.secret"] = torch.ones(1)
    elif damage == "shape":
        weights[key] = weights[key][:1]
    else:
        weights = {}
    with pytest.raises(FedHelpError, match=r"a: .*same small network"):
        algo.train(ExchangeObject(weights=weights))
    assert_equal(start(algo), before)


def test_divergence_is_named(overlay):
    algo = client(SMALL_ROLE, overlay())
    with torch.no_grad():
        next(algo.trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(FedHelpError, match="not finite after training; lower the learning rate"):
        algo.get_weights()


def test_evaluation_knows_every_network_and_leaves_the_surrogate_alone(overlay):
    algo = client(LARGE_ROLE, overlay())
    weights = start(algo)
    algo.train(ExchangeObject(weights=weights))
    trained = start(algo)
    results = {
        (model, split): algo.evaluate(ExchangeObject(weights=weights), {MODEL: model, SPLIT: split}).metrics
        for model in ("proxy", "large", "global", "deployed")
        for split in ("validation", "testing")
    }
    assert_equal(start(algo), trained)
    assert all(set(metrics) == {"auc", "accuracy", "balanced_accuracy"} for metrics in results.values())
    assert results["deployed", "testing"] == results["large", "testing"]
    with pytest.raises(FedHelpError, match="has no network 'teacher'"):
        algo.evaluate(ExchangeObject(weights=weights), {MODEL: "teacher"})


@pytest.mark.parametrize("configs", [SMALL_ROLE, LARGE_ROLE], ids=["small", "large"])
def test_fine_tuning_is_one_more_round_that_leaves_no_trace(overlay, configs):
    file = overlay()
    algo, other = client(configs, file), client(configs, file)
    weights = start(algo)
    for site in (algo, other):
        site.train(ExchangeObject(weights=weights), {ROUND: 1})
    downloaded = {key: value + 0.01 for key, value in weights.items()}
    algo.fine_tune(ExchangeObject(weights=downloaded), {ROUND: 2})
    tuned = algo.networks["fine-tuned"].state_dict()
    before, after = flatten(other.state_dict()), flatten(algo.state_dict())
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    other.train(ExchangeObject(weights=downloaded), {ROUND: 2})
    assert_equal(tuned, start(other))


def flatten(state, prefix=""):
    """Every tensor and number of a nested state."""
    if isinstance(state, dict):
        entries = state.items()
    elif isinstance(state, list | tuple):
        entries = enumerate(state)
    else:
        return {} if state is None else {prefix: torch.as_tensor(state)}
    return {name: leaf for key, value in entries for name, leaf in flatten(value, f"{prefix}/{key}").items()}


def test_a_restarted_site_continues_to_the_bit(overlay):
    file = overlay()
    steady = client(LARGE_ROLE, file)
    weights = start(steady)
    steady.train(ExchangeObject(weights=weights), {ROUND: 1})
    state, update = copy.deepcopy(steady.state_dict()), steady.get_weights().weights
    steady.train(ExchangeObject(weights=update), {ROUND: 2})

    restarted = client(LARGE_ROLE, file)
    restarted.load_state_dict(state)
    restarted.train(ExchangeObject(weights=update), {ROUND: 2})
    assert_equal(restarted.get_weights().weights, steady.get_weights().weights)
    assert_equal(restarted.networks.large.state_dict(), steady.networks.large.state_dict())


def test_optimiser_of_the_exchanged_network_is_forgotten_and_the_large_one_kept(overlay):
    algo = client(LARGE_ROLE, overlay())
    steps = []
    algo.trainer.add_event_handler(
        Events.COMPLETED,
        lambda engine: steps.append({state["step"].item() for state in engine.optimizer.state.values()}),
    )
    for _ in range(2):
        algo.train(ExchangeObject(weights=start(algo)))
        assert not algo.trainer.optimizer.state
    epoch = algo.trainer.state.epoch_length
    assert steps == [{epoch}, {epoch}]
    assert {state["step"].item() for state in algo.trainer.large_optimizer.state.values()} == {2 * epoch}


def test_abort_and_finalize_stop_both_engines(overlay):
    algo = client(SMALL_ROLE, overlay())
    seen = []
    algo.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: (seen.append(1), algo.abort()))
    algo.train(ExchangeObject(weights=start(algo)))
    assert len(seen) == 1
    algo.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: (seen.append(2), algo.finalize()))
    algo.evaluate(ExchangeObject(weights=start(algo)))
    assert seen == [1, 2]


def test_batch_norm_that_stays_local_is_not_exchanged(overlay):
    network = {"_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    tiny = {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]}
    changes = {key: None for key in SMALL if key.startswith("network_def")}
    file = overlay(**changes, network_def={**network, **tiny})
    algo = client(SMALL_ROLE, file, local_layers="batch-norm")
    everything = start(algo)
    shared = {key: tensor for key, tensor in everything.items() if "norm" not in key}
    assert shared.keys() == set(algo.shared_keys) and len(shared) < len(everything)
    algo.train(ExchangeObject(weights=shared))
    own = algo.trainer.network.state_dict()
    assert any(not torch.equal(own[key], everything[key]) for key in own if "running_mean" in key)
    algo.evaluate(ExchangeObject(weights=shared))
    seen = algo.networks["global"].state_dict()
    assert_equal(
        {k: v for k, v in seen.items() if "running_mean" in k}, {k: v for k, v in own.items() if "running_mean" in k}
    )

    averaged = client(SMALL_ROLE, file, local_layers="none")
    assert set(averaged.shared_keys) == set(everything)
