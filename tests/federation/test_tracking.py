"""A run that is followed in TensorBoard or MLflow: MONAI's own handlers write, and the numbers stay the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.config import Tracking
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.tracking import check_tracking
from fedhelp_med.federation.workspace import Workspace

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhelp-med"
MLFLOW = CACHE / "mlflow"


FOLLOWED = """
import json, sys
sys.path.append(sys.argv[1])  # behind everything else
from mlflow import MlflowClient
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from pathlib import Path

if __name__ == "__main__":
    federation = load_federation(Path(sys.argv[2]))
    run_federation(federation, Path(sys.argv[3]))
    client = MlflowClient(federation.file.tracking.mlflow)
    experiment = client.get_experiment_by_name(federation.file.name)
    runs = client.search_runs([experiment.experiment_id])
    steps = {run.info.run_name: client.get_metric_history(run.info.run_id, "training/loss") for run in runs}
    told = {
        run.info.run_name: [run.info.status, [metric.step for metric in steps[run.info.run_name]], run.data.metrics]
        for run in runs
    }
    print(json.dumps(told))
"""


def test_nothing_is_followed_by_default(federation_file):
    assert load_federation(federation_file()).file.tracking == Tracking()


@pytest.mark.parametrize("uri", ["mlruns", "/data/mlruns"])
def test_a_folder_is_no_mlflow_uri(monkeypatch, uri):
    monkeypatch.setattr("fedhelp_med.federation.tracking.find_spec", lambda name: True)
    with pytest.raises(InputError, match=r"tracking\.mlflow: .* is not the URI"):
        check_tracking(Tracking(mlflow=uri))


def test_a_missing_package_is_named_with_its_extra(monkeypatch, federation_file):
    monkeypatch.setattr("fedhelp_med.federation.tracking.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tracking\.tensorboard: needs tensorboard; .*fedhelp-med\[tracking\]"):
        load_federation(federation_file(tracking={"tensorboard": True}))


@pytest.mark.integration
def test_tensorboard_shows_losses_terms_and_evaluations(federation_file, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = run_federation(load_federation(federation_file()), tmp_path / "plain")
    followed = load_federation(federation_file(tracking={"tensorboard": True}))
    workspace = run_federation(followed, tmp_path / "followed")
    assert workspace.metrics_file.read_bytes() == plain.metrics_file.read_bytes()

    events = EventAccumulator(str(workspace.site("hospital-a") / "tensorboard"))
    events.Reload()
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["training/loss"] == scalars["training/forward term"] == [1, 2]
    assert scalars["validation/proxy/auc"] == scalars["validation/large/auc"] == [1, 2]
    assert scalars["testing/deployed/auc"] == [2]
    told = {row.value for row in workspace.rows() if (row.site, row.model) == ("hospital-a", "deployed")}
    assert any(events.Scalars("testing/deployed/auc")[0].value == pytest.approx(value) for value in told)
    assert not (plain.site("hospital-a") / "tensorboard").exists()
    loss = workspace.events()[0]["sites"]["hospital-a"]["loss"]
    assert events.Scalars("training/loss")[0].value == pytest.approx(loss)


@pytest.mark.service
def test_mlflow_has_a_finished_run_for_every_site(federation_file, tmp_path):
    if not (MLFLOW / "mlflow").is_dir():
        message = f"no {MLFLOW}; run make services-tracking"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    path = federation_file(tracking={"mlflow": f"sqlite:///{tmp_path / 'mlruns.db'}"})
    arguments = [sys.executable, "-c", FOLLOWED, str(MLFLOW), str(path), str(tmp_path / "followed")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads(done.stdout.splitlines()[-1])
    assert set(runs) == {f"followed {site}" for site in ("clinic-a", "clinic-b", "hospital-a", "hospital-b")}
    for name, (status, steps, metrics) in runs.items():
        assert (status, steps) == ("FINISHED", [1, 2])
        site = name.removeprefix("followed ")
        final = Workspace(tmp_path / "followed").final()
        (auc,) = (row.value for row in final if (row.site, row.model, row.metric) == (site, "deployed", "auc"))
        assert metrics["testing/deployed/auc"] == pytest.approx(auc)
