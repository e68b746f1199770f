"""The runner: same numbers whatever happens, and no site's failure passes unseen."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL, write_site
from safetensors.torch import load_file

from fedhelp_med.cli.main import main
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.client import FedHelpAlgo
from fedhelp_med.federation.hosts import submit
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.site import client_of
from fedhelp_med.federation.workspace import Workspace

pytestmark = pytest.mark.integration


def run(path: Path, out: Path, **options) -> bytes:
    return run_federation(load_federation(path), out, **options).metrics_file.read_bytes()


def rows(out: Path) -> list[dict]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_has_every_row_and_file_of_the_contract(federation_file, tmp_path):
    out = tmp_path / "run"
    run(federation_file(reference="local"), out)
    found = {(int(r["round"]), r["role"], r["model"], r["split"]) for r in rows(out)}
    expected = {(number, role, "global", "validation") for number in (0, 1, 2) for role in ("small", "large")}
    expected |= {(n, role, "local", "validation") for n in (1, 2) for role in ("small", "large")}
    for number in (1, 2):
        expected |= {(number, "small", "surrogate", "validation")}
        expected |= {(number, "large", model, "validation") for model in ("proxy", "large")}
    for split in ("validation", "testing"):
        expected |= {(2, role, "deployed", split) for role in ("small", "large")}
    expected |= {(2, role, model, "testing") for role in ("small", "large") for model in ("global", "local")}
    expected |= {
        (2, "small", "surrogate", "testing"),
        (2, "large", "proxy", "testing"),
        (2, "large", "large", "testing"),
    }
    assert found == expected
    assert {r["metric"] for r in rows(out)} == {"accuracy", "auc", "balanced_accuracy"}
    assert {r["site"] for r in rows(out)} == {"clinic-a", "clinic-b", "hospital-a", "hospital-b"}

    for number in (0, 1, 2):
        assert (out / f"global/round-000{number}/model.safetensors").is_file()
        assert json.loads((out / f"global/round-000{number}/meta.json").read_text())["round"] == number
    assert (out / "sites/hospital-a/deployed/large.safetensors").is_file()
    assert json.loads((out / "sites/clinic-a/deployed/meta.json").read_text())["networks"] == ["surrogate"]
    events = [event["event"] for event in Workspace(out).events()]
    assert events == ["round", "round", "finished"]
    assert not [path for path in out.rglob("*") if path.suffix in (".pt", ".pkl", ".pickle")]
    assert not list(out.rglob(".*"))


def test_the_resolved_file_runs_again_from_anywhere_with_the_same_numbers(federation_file, tmp_path, monkeypatch):
    first = run(federation_file(), tmp_path / "run")
    monkeypatch.chdir("/")
    assert run(tmp_path / "run" / "federation.yaml", tmp_path / "again") == first


def test_one_worker_and_two_give_the_same_bytes(federation_file, tmp_path):
    one = run(federation_file(runtime={"workers": 1}), tmp_path / "one")
    two = run(federation_file(runtime={"workers": 2}), tmp_path / "two")
    assert one == two


def test_another_seed_gives_other_numbers(federation_file, tmp_path):
    run(federation_file(), tmp_path / "one")
    run(federation_file(seed=4), tmp_path / "other")
    one, other = (load_file(tmp_path / name / "global/round-0002/model.safetensors") for name in ("one", "other"))
    assert not all(torch.equal(one[key], other[key]) for key in one)


KILL_POINTS = (
    "federation.yaml",
    "global/round-0000/model.safetensors",
    "sites/clinic-b/round-0001",
    "global/round-0001/model.safetensors",
    "sites/hospital-a/round-0002",
    "sites/clinic-a/deployed",
)


@pytest.mark.parametrize(("point", "workers"), [*((point, 1) for point in KILL_POINTS), (KILL_POINTS[4], 2)])
def test_killed_and_resumed_equals_undisturbed(federation_file, tmp_path, point, workers):
    path = federation_file(runtime={"workers": workers})
    expected = run(path, tmp_path / "undisturbed")
    out = tmp_path / "run"
    code = "import sys; from fedhelp_med.cli.main import main; sys.argv[0] = 'fedhelp'; main()"
    command = [sys.executable, "-c", code, "run", str(path), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (out / point).exists():
        assert process.poll() is None and time.monotonic() < deadline, f"ended before {point}"
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Workspace(out).complete
    assert run(path, out, resume=True) == expected
    assert run(path, out, resume=True) == expected  # a finished run is left as it is


def test_a_site_that_fails_is_named_and_the_round_goes_on(federation_file, tmp_path):
    path = federation_file(aggregation={"minimum_sites": 2})
    federation = load_federation(path)
    (tmp_path / "sites/clinic-b/images/training-3.png").write_bytes(b"damaged")
    workspace = run_federation(federation, tmp_path / "run")
    failed = [event for event in workspace.events() if event["event"] == "site_failed"]
    assert {(event["site"], event["step"]) for event in failed} >= {("clinic-b", "train")}
    assert "training-3.png" in failed[0]["error"] + failed[0]["traceback"]
    tested = {row.site for row in workspace.rows() if row.split == "testing"}
    assert tested == {"clinic-a", "hospital-a", "hospital-b"}
    shares = json.loads((tmp_path / "run/global/round-0001/meta.json").read_text())["weights"]
    assert sorted(shares) == ["clinic-a", "hospital-a", "hospital-b"] and sum(shares.values()) == pytest.approx(1)


class NeverTrains(FedHelpAlgo):
    def train(self, data, extra=None):
        raise FedHelpError("out of memory")


def test_a_site_that_finished_no_round_has_nothing_to_deploy(federation_file, tmp_path):
    federation = load_federation(federation_file(rounds=1))
    kinds = {"hospital-b": NeverTrains}
    out = tmp_path / "run"
    workspace = run_federation(federation, out, create=lambda job: client_of(kinds.get(job.name, FedHelpAlgo), job))
    reason = "hospital-b: finished no round of training, so there is nothing to test"
    assert workspace.untested == {"hospital-b": reason}
    assert "hospital-b" not in {row.site for row in workspace.rows() if row.split == "testing"}
    assert not workspace.site("hospital-b").joinpath("deployed").exists()


def test_below_the_quorum_the_run_stops_and_can_go_on(federation_file, tmp_path):
    path = federation_file(aggregation={"minimum_sites": 4})
    federation = load_federation(path)
    expected = run(path, tmp_path / "undisturbed")
    image = tmp_path / "sites/hospital-b/images/training-1.png"
    pixels = image.read_bytes()
    image.write_bytes(b"damaged")
    with pytest.raises(FedHelpError, match=r"round 1: 3 of 4 sites finished .*minimum_sites is 4.*--resume"):
        run_federation(federation, tmp_path / "run")
    image.write_bytes(pixels)
    # Round 0 was committed without the site that could not be evaluated; from round 1 on nothing differs.
    lines = [text.splitlines() for text in (run(path, tmp_path / "run", resume=True), expected)]
    assert [line for line in lines[0] if line[:2] != b"0,"] == [line for line in lines[1] if line[:2] != b"0,"]


def test_a_dead_worker_process_fails_its_sites_only(federation_file, tmp_path):
    path = federation_file(runtime={"workers": 2}, aggregation={"minimum_sites": 1})
    workspace = run_federation(load_federation(path), tmp_path / "run", create=dying_client)
    failed = {event["site"] for event in workspace.events() if event["event"] == "site_failed"}
    assert "hospital-a" in failed and "hospital-b" not in failed


def test_a_worker_process_that_died_idle_is_replaced():
    pools = {}
    first = submit(pools, 0, os.getpid).result()
    assert first != os.getpid()
    os.kill(first, signal.SIGKILL)
    while not pools[0]._broken:
        time.sleep(0.01)
    assert submit(pools, 0, os.getpid).result() not in (first, os.getpid())
    pools[0].shutdown()


def test_a_site_with_training_images_alone_deploys_the_final_global_network(federation_file, tmp_path):
    path = federation_file(method="fedavg")
    datalist = tmp_path / "sites/clinic-a/datalist.json"
    content = json.loads(datalist.read_text())
    datalist.write_text(json.dumps({k: v for k, v in content.items() if k not in ("validation", "testing")}))
    workspace = run_federation(load_federation(path), tmp_path / "run")
    deployed = load_file(workspace.site("clinic-a") / "deployed/global.safetensors")
    final = load_file(workspace.model(2))
    assert all(torch.equal(deployed[key], tensor) for key, tensor in final.items())


def dying_client(job):
    if job.name == "hospital-a":
        os.kill(os.getpid(), signal.SIGKILL)
    from fedhelp_med.federation.site import fedhelp_client

    return fedhelp_client(job)


def test_a_site_that_takes_too_long_is_given_up_between_iterations(federation_file, tmp_path):
    path = federation_file(runtime={"site_timeout": 0.0001})
    with pytest.raises(FedHelpError, match="0 of 4 sites finished"):
        run_federation(load_federation(path), tmp_path / "run")
    errors = {event["error"] for event in Workspace(tmp_path / "run").events()}
    assert any("took longer than runtime.site_timeout = 0.0001 s" in error for error in errors)


def test_differences_give_the_same_model_as_weights_up_to_rounding(federation_file, tmp_path):
    run(federation_file(rounds=1), tmp_path / "weights")
    run(federation_file(rounds=1, aggregation={"upload": "differences"}), tmp_path / "differences")
    one, other = (load_file(tmp_path / n / "global/round-0001/model.safetensors") for n in ("weights", "differences"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-6)


def test_one_site_one_round_is_its_own_training(federation_file, tmp_path):
    path = federation_file(rounds=1, method="fedavg")
    content = yaml.safe_load(path.read_text())
    content["sites"] = content["sites"][:1]
    path.write_text(yaml.safe_dump(content))
    run(path, tmp_path / "run")
    update = load_file(tmp_path / "run/sites/clinic-a/round-0001/update.safetensors")
    model = load_file(tmp_path / "run/global/round-0001/model.safetensors")
    assert all(torch.equal(update[key], model[key]) for key in model)


def test_stock_monai_algo_can_be_driven(federation_file, tmp_path):
    workspace = run_federation(load_federation(federation_file(rounds=1)), tmp_path / "run", create=stock_client)
    found = {(row.round, row.model, row.split) for row in workspace.rows()}
    assert found == {(0, "global", "validation"), (1, "global", "validation")}


def stock_client(job):
    from monai.fl.client import MonaiAlgo

    configs = list(job.configs)
    return MonaiAlgo(
        job.bundle,
        local_epochs=job.local_epochs,
        send_weight_diff=False,
        config_train_filename=configs,
        config_evaluate_filename=configs,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_site_where_testing_failed_is_named_and_tested_when_the_run_goes_on(federation_file, tmp_path, workers):
    path = federation_file(rounds=1, runtime={"workers": workers})
    expected = run(path, tmp_path / "undisturbed")
    image = tmp_path / "sites/clinic-b/images/testing-1.png"
    pixels = image.read_bytes()
    image.write_bytes(b"damaged")
    workspace = run_federation(load_federation(path), tmp_path / "run")
    assert workspace.complete and not workspace.finished
    assert list(workspace.untested) == ["clinic-b"] and "testing-1.png" in workspace.untested["clinic-b"]
    assert "applying transform" not in workspace.untested["clinic-b"]  # the library's wrapping is not what is told
    image.write_bytes(pixels)
    assert run(path, tmp_path / "run", resume=True) == expected
    assert workspace.finished


def test_the_command_line_says_which_site_has_no_result(federation_file, tmp_path, monkeypatch, capsys):
    path = federation_file(rounds=1)
    load_federation(path)
    (tmp_path / "sites/clinic-b/images/testing-1.png").write_bytes(b"damaged")
    monkeypatch.setattr(sys, "argv", ["fedhelp", "run", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    assert stop.value.code == 1 and "hospital-a" in told.out
    assert "testing failed at clinic-b: " in told.err and "go on with --resume" in told.err


def test_our_own_message_is_told_though_a_library_wraps_it(federation_file, tmp_path, monkeypatch, capsys):
    write_site(tmp_path / "public", training=16, seed=9)
    datalist = tmp_path / "public/datalist.json"
    content = json.loads(datalist.read_text())
    for item in content["training"]:
        del item["label"]
    datalist.write_text(json.dumps(content))
    path = federation_file(rounds=1, preset="recommended", public={"data": "public/datalist.json"})
    monkeypatch.setattr(sys, "argv", ["fedhelp", "run", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert told.startswith("fedhelp: ") and "has no labels and there is no ledger" in told


def test_what_was_wrong_in_a_file_is_corrected_and_the_run_begins_anew(federation_file, tmp_path):
    spoilt = federation_file(rounds=1, overrides={"optimizer#lr": "fast"})
    with pytest.raises(FedHelpError, match="round 1: 0 of 4 sites finished"):
        run(spoilt, tmp_path / "run")
    path = federation_file(rounds=1)
    expected = run(path, tmp_path / "undisturbed")
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        run(path, tmp_path / "run")
    assert run(path, tmp_path / "run", resume=True) == expected
    assert [event["event"] for event in Workspace(tmp_path / "run").events()] == ["round", "finished"]


def test_a_run_of_other_data_does_not_go_on(federation_file, tmp_path):
    path = federation_file(rounds=1)
    run(path, tmp_path / "run")
    datalist = tmp_path / "sites/hospital-a/datalist.json"
    content = json.loads(datalist.read_text())
    content["training"].append(content["testing"].pop())
    datalist.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"holds a run of other data \(changed since: the datalist of hospital-a\)"):
        run(path, tmp_path / "run", resume=True)


def test_a_run_with_another_public_set_does_not_go_on(federation_file, tmp_path):
    write_site(tmp_path / "public", training=8, seed=9)
    path = federation_file(rounds=1, public={"data": "public/datalist.json"})
    run(path, tmp_path / "run")
    write_site(tmp_path / "public", training=6, seed=9)
    with pytest.raises(InputError, match=r"holds a run of other data \(changed since: the public datalist\)"):
        run(path, tmp_path / "run", resume=True)


def test_another_run_folder_is_not_touched(federation_file, tmp_path):
    path = federation_file(rounds=1)
    run(path, tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="holds a run already; go on with --resume, or choose another --out"):
        run(path, tmp_path / "run")
    with pytest.raises(InputError, match=r"run of another federation \(different: seed\)"):
        run(federation_file(rounds=1, seed=9), tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match="not empty and not a run; choose another --out"):
        run(path, tmp_path / "other", resume=True)
    assert {file: file.read_bytes() for file in before} == before
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["thesis.docx"]


def test_only_the_last_two_rounds_of_personal_state_are_kept(federation_file, tmp_path):
    run(federation_file(rounds=4), tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run/sites/hospital-a").glob("round-*"))
    assert kept == ["round-0003", "round-0004"]


BATCH_NORMALISED = {
    "overrides": {"image_size": [16, 16], "batch_size": 4},
    "roles": {
        "small": {
            "network": {
                "_target_": "monai.networks.nets.DenseNet",
                "spatial_dims": 2,
                "in_channels": 1,
                "out_channels": 2,
                "init_features": 4,
                "growth_rate": 4,
                "block_config": [1, 1],
            },
            "head": "class_layers.out",
        }
    },
}


@pytest.mark.parametrize("policy", ["average", "keep-local"])
def test_batch_norm_of_a_network_of_ones_own(federation_file, tmp_path, policy):
    path = federation_file(aggregation={"batch_norm": policy}, rounds=1, **BATCH_NORMALISED)
    workspace = run_federation(load_federation(path), tmp_path / "run")
    shared = load_file(tmp_path / "run/global/round-0001/model.safetensors")
    statistics = [key for key in shared if "running_mean" in key or "num_batches" in key]
    assert bool(statistics) == (policy == "average")
    assert any("conv" in key for key in shared)
    if policy == "average":
        shares = json.loads((tmp_path / "run/global/round-0001/meta.json").read_text())["weights"]
        key = next(key for key in statistics if "running_mean" in key)
        folders = {name: tmp_path / f"run/sites/{name}/round-0001/update.safetensors" for name in shares}
        mean = sum(share * load_file(folders[name])[key].double() for name, share in shares.items())
        torch.testing.assert_close(shared[key].double(), mean, rtol=1e-6, atol=1e-7)
    assert {row.model for row in workspace.rows() if row.split == "testing"} >= {"surrogate", "proxy", "deployed"}


@pytest.mark.parametrize("method", ["fedhelp", "fedavg-public"])
def test_layers_that_stay_at_the_sites_are_missing_where_the_server_trains(federation_file, tmp_path, method):
    write_site(tmp_path / "public", training=16, seed=9)
    path = federation_file(
        method=method,
        preset="recommended",
        public={"data": "public/datalist.json"},
        aggregation={"batch_norm": "keep-local"},
        **BATCH_NORMALISED,
    )
    with pytest.raises(InputError, match=rf"batch_norm: 'keep-local' keeps .*norm.* {method} trains the network"):
        run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_large_site_may_come_first_and_override_what_only_large_sites_have(federation_file, tmp_path):
    path = federation_file(rounds=1, overrides={**SMALL, "large_optimizer#lr": 1e-4})
    content = yaml.safe_load(path.read_text())
    content["sites"].sort(key=lambda site: site["role"])  # "large" before "small"
    path.write_text(yaml.safe_dump(content))
    assert run(path, tmp_path / "run")


def test_a_bundle_that_lacks_what_a_site_needs_is_refused(federation_file, tmp_path):
    bundle = tmp_path / "mine"
    shutil.copytree(load_federation(federation_file()).bundle, bundle)
    file = bundle / "configs/train.json"
    content = json.loads(file.read_text())
    del content["head"], content["optimizer"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="bundle: mine lacks head, optimizer; start from a copy of a shipped bundle"):
        run(federation_file(bundle=str(bundle)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_is_too_deep_for_its_windows_names_their_key(federation_file, tmp_path):
    path = federation_file(overrides={"image_size": [2, 2]})
    with pytest.raises(InputError, match=r"fails on an image of shape .*overrides\.image_size"):
        run(path, tmp_path / "run")
