"""Following a run live in TensorBoard or MLflow, through MONAI's own handlers; off unless the federation file asks."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler
from monai.utils.enums import CommonKeys as Keys

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.client import FedHelpAlgo
from fedhelp_med.federation.config import FederationFile, Tracking

FOLDER = "tensorboard"
"""In a site's folder."""


@dataclass(frozen=True)
class Following:
    """What a site's process has to know to be followed.

    Args:
        tensorboard: write events into the site's folder.
        mlflow: the tracking server's URI, or None.
        experiment: the MLflow experiment, the federation's name.
        run: the MLflow run: run folder and site.
    """

    tensorboard: bool
    mlflow: str | None
    experiment: str
    run: str


def check_tracking(tracking: Tracking) -> None:
    """Check what can be known before a run.

    Raises:
        InputError: a package is missing, or the URI is a path.
    """
    for key, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow")):
        if getattr(tracking, key) and find_spec(package) is None:
            raise InputError(f"tracking.{key}: needs {package}; pip install 'fedhelp-med[tracking]', or remove the key")
    if tracking.mlflow is not None and "://" not in tracking.mlflow:
        raise InputError(
            f"tracking.mlflow: {tracking.mlflow!r} is not the URI of a server or database; "
            "write http://HOST:PORT or sqlite:////FOLDER/mlruns.db"
        )


def following(file: FederationFile, folder: Path, site: str) -> Following | None:
    """Return how a site of the run in ``folder`` is followed; None where nothing is asked for."""
    tracking = file.tracking
    if not tracking.tensorboard and tracking.mlflow is None:
        return None
    return Following(tracking.tensorboard, tracking.mlflow, file.name, f"{folder.name} {site}")


def open_experiment(file: FederationFile) -> None:
    """Make the MLflow experiment before several sites' processes would, all at once."""
    if file.tracking.mlflow is not None:
        handler = MLFlowHandler(tracking_uri=file.tracking.mlflow, experiment_name=file.name)
        if handler.client.get_experiment_by_name(file.name) is None:
            handler.client.create_experiment(file.name, artifact_location=handler.artifact_location)


class Tracker:
    """Sends a site's training loss, the method's loss terms and all evaluations where they can be watched.

    Args:
        client: whose trainer and evaluator are followed.
        wanted: where to.
        folder: the site's.
    """

    def __init__(self, client: FedHelpAlgo, wanted: Following, folder: Path) -> None:
        self._client = client
        self._closing: list[Any] = []
        if wanted.tensorboard:
            self._tensorboard(folder / FOLDER)
        if wanted.mlflow is not None:
            self._mlflow(wanted)

    def close(self) -> None:
        """End what was begun: an MLflow run is then finished."""
        for handler in self._closing:
            handler.close()
        self._closing.clear()

    def _tensorboard(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(log_dir=str(folder))

        def write(scalars: dict[str, float]) -> None:
            for name, value in scalars.items():
                writer.add_scalar(name, value, self._client.round)

        TensorBoardStatsHandler(
            writer,
            output_transform=lambda output: output[Keys.LOSS],
            tag_name="training/loss of an iteration",
            epoch_event_writer=lambda engine, _: write(self._training()),
        ).attach(self._client.trainer)
        TensorBoardStatsHandler(
            writer, iteration_log=False, epoch_event_writer=lambda engine, _: write(evaluation(engine))
        ).attach(self._client.evaluator)
        self._client.evaluator.add_event_handler(Events.COMPLETED, writer.flush)
        self._closing.append(writer)

    def _mlflow(self, wanted: Following) -> None:
        for engine, scalars in (
            (self._client.trainer, lambda _: self._training()),
            (self._client.evaluator, evaluation),
        ):
            handler = MLFlowHandler(
                tracking_uri=wanted.mlflow,
                iteration_log=False,  # a request each
                experiment_name=wanted.experiment,
                run_name=wanted.run,
            )

            def log(engine: Any, handler: Any = handler, scalars: Any = scalars) -> None:
                for name, value in scalars(engine).items():
                    handler.client.log_metric(handler.cur_run.info.run_id, name, value, step=self._client.round)

            handler.epoch_logger = log
            handler.attach(engine)
            self._closing.append(handler)

    def _training(self) -> dict[str, float]:
        loss = self._client.mean_loss
        found = {} if loss is None else {"training/loss": loss}
        return found | {f"training/{name} term": value for name, value in self._client.loss_terms.items()}


def evaluation(engine: Any) -> dict[str, float]:
    """Return an evaluation's metrics by split, network and metric; nothing while a site tries what to deploy."""
    model, split = engine.state.evaluated
    if (model, split) == ("deployed", "validation"):
        return {}
    return {f"{split}/{model}/{name}": float(value) for name, value in engine.state.metrics.items()}
