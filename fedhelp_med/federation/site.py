"""One site of a run, in whatever process it lives."""

import csv
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from ignite.engine import Events
from monai.fl.client import ClientAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.files import replacing_folder, write_json, write_text
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.federation.client import MODEL, ROUND, ROUNDS, SIGNALS, SPLIT, FedHelpAlgo
from fedhelp_med.federation.deployment import Candidate, Choice, choose
from fedhelp_med.federation.site_messages import SiteJob, SiteReport
from fedhelp_med.federation.state import load_state, load_tensors, save_state, save_tensors
from fedhelp_med.federation.tracking import Tracker
from fedhelp_med.federation.workspace import Row
from fedhelp_med.methods.base import CLASS_COUNTS

ClientFactory = Callable[[SiteJob], ClientAlgo]


Client = TypeVar("Client", bound=FedHelpAlgo)


def fedhelp_client(job: SiteJob) -> ClientAlgo:
    """Return the client that a job describes."""
    return client_of(FedHelpAlgo, job)


def client_of(kind: type[Client], job: SiteJob) -> Client:
    """Return a client of one's own kind with everything that a job describes."""
    return kind(
        job.bundle,
        config_train_filename=job.configs,
        seed=job.seed,
        local_epochs=job.local_epochs,
        send_weight_diff=job.upload == "differences",
        has_large=job.has_large,
        trained=job.trained,
        deployed=job.deployed,
        offset=job.offset,
        keep_optimizer=job.keep_optimizer,
        local_layers=job.local_layers,
    )


class SiteHost:
    """Drives one site's ``ClientAlgo``. After a failure the client is built anew from the last state on disk."""

    def __init__(self, job: SiteJob, create: ClientFactory = fedhelp_client) -> None:
        self.job = job
        self._create = create
        self._client: ClientAlgo | None = None
        self._deadline = float("inf")
        self._tracker: Tracker | None = None

    def train(self, number: int, weights: Path | None, signals: Mapping[str, dict[str, Any]]) -> SiteReport:
        """Train round ``number`` from the global weights in a file; keep the update and the state on disk.

        ``signals`` is what each site is told with the round, by site.
        """
        start = time.perf_counter()
        report = SiteReport(samples=self.job.samples)
        with self._failing_safely():
            client = self._ready()
            extra = {ROUND: number, ROUNDS: self.job.rounds, SIGNALS: signals.get(self.job.name, {})}
            begin = time.perf_counter()
            client.train(_exchange(weights), extra)
            report.engine_seconds += time.perf_counter() - begin
            update = client.get_weights(extra)
            report.bytes_sent = self._keep(number, None if self.job.exchange == "nothing" else update)
            if isinstance(client, FedHelpAlgo):
                report.loss, report.loss_terms = getattr(client, "mean_loss", None), client.loss_terms
                for model in client.networks.trained:
                    report.rows += self._evaluate(number, model, "validation", None, report)
        report.seconds = time.perf_counter() - start
        return report

    def evaluate(self, number: int, weights: Path, split: str = "validation") -> SiteReport:
        """Evaluate weights that come with the call on a split."""
        start = time.perf_counter()
        report = SiteReport()
        with self._failing_safely():
            report.rows += self._evaluate(number, "global", split, weights, report)
        report.seconds = time.perf_counter() - start
        return report

    def count(self, weights: Path) -> SiteReport:
        """Count the training images of each class that the weights recognise; the counts are all that is told."""
        report = SiteReport()
        with self._failing_safely():
            client = self._ready()
            if isinstance(client, FedHelpAlgo):
                report.counts = client.count_recognised(_exchange(weights))
        return report

    def test(self, number: int, weights: Path | None, signals: Mapping[str, dict[str, Any]]) -> SiteReport:
        """Evaluate every network on the testing split and keep those that the site deploys.

        ``signals`` is what each site is told for its fine-tuning and balancing, by site.

        Raises:
            FedHelpError: when the site finished no round: its networks are as they were made.
        """
        start = time.perf_counter()
        report = SiteReport()
        with self._failing_safely():
            client = self._ready()
            if isinstance(client, FedHelpAlgo):  # a stock client knows neither splits nor networks of its own
                if not self._states():
                    raise FedHelpError(f"{self.job.name}: finished no round of training, so there is nothing to test")
                exchanged = ("global",) if weights is not None else ()
                if isinstance(client, FedHelpAlgo):
                    told = signals.get(self.job.name, {})
                    if CLASS_COUNTS in told:
                        client.networks.hear_class_counts(told[CLASS_COUNTS])
                    if weights is not None:  # a site without a split to evaluate deploys them all the same
                        client.receive_global(_exchange(weights))
                    report.choice = self._choose(client, number, weights, told, report)
                report.rows += self._evaluate(number, "deployed", "validation", weights, report)
                self._keep_studies("deployed", "validation")
                for model in (*client.networks.trained, *exchanged, "deployed"):
                    report.rows += self._evaluate(number, model, "testing", weights, report)
                    self._keep_studies(model, "testing")
            if isinstance(client, FedHelpAlgo):
                self._deploy(client, report.choice)
            if self._tracker is not None:
                self._tracker.close()
        report.seconds = time.perf_counter() - start
        return report

    def _ready(self) -> ClientAlgo:
        torch.set_num_threads(self.job.threads)
        if self._client is None:
            client = self._create(self.job)
            client.initialize({ExtraItems.CLIENT_NAME: self.job.name})
            states = self._states()
            if states and isinstance(client, FedHelpAlgo):
                client.load_state_dict(load_state(states[-1]))
            self._watch(client)
            if self.job.following is not None and isinstance(client, FedHelpAlgo):
                self._tracker = Tracker(client, self.job.following, self.job.folder)
            self._client = client
        self._deadline = float("inf") if self.job.timeout is None else time.monotonic() + self.job.timeout
        return self._client

    def _states(self) -> list[Path]:
        return sorted(self.job.folder.glob("round-*"))

    def _watch(self, client: ClientAlgo) -> None:
        """In one process a time-out can act only between iterations."""

        def check(_: Any) -> None:
            if time.monotonic() > self._deadline:
                raise FedHelpError(f"{self.job.name}: took longer than runtime.site_timeout = {self.job.timeout} s")

        for engine in (getattr(client, "trainer", None), getattr(client, "evaluator", None)):
            if engine is not None:
                engine.add_event_handler(Events.ITERATION_STARTED, check)

    def _keep(self, number: int, update: ExchangeObject | None) -> int:
        """Store the update and the personal state of a round; return the size of the update in bytes."""
        size = 0
        with replacing_folder(self.job.folder / f"round-{number:04d}") as folder:
            if update is not None:
                save_tensors(folder / "update.safetensors", update.weights)
                size = (folder / "update.safetensors").stat().st_size
                write_json(
                    folder / "update.json", {"weight_type": str(update.weight_type), "samples": self.job.samples}
                )
            if isinstance(self._client, FedHelpAlgo):
                save_state(folder, self._client.state_dict())
        return size

    def _evaluate(self, number: int, model: str, split: str, weights: Path | None, report: SiteReport) -> list[Row]:
        if split not in self.job.splits:
            return []
        client = self._ready()
        begin = time.perf_counter()
        result = client.evaluate(_exchange(weights), {MODEL: model, SPLIT: split, ROUND: number})
        report.engine_seconds += time.perf_counter() - begin
        job = self.job
        return [
            Row(number, job.name, job.role, model, split, metric, float(value))
            for metric, value in sorted((result.metrics or {}).items())
        ]

    def _keep_studies(self, model: str, split: str) -> None:
        """Write what was found in each study, for statistics over patients; it stays at the site."""
        if split not in self.job.splits:
            return
        columns, table = getattr(self._client, "studies", ((), torch.empty(0, 0)))
        if len(table):
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["study", *columns])
            writer.writerows([number, *(f"{value:.6g}" for value in row)] for number, row in enumerate(table.tolist()))
            write_text(studies_file(self.job.folder, model, split), text.getvalue())

    def _choose(
        self, client: FedHelpAlgo, number: int, weights: Path | None, signals: dict[str, Any], report: SiteReport
    ) -> Choice | None:
        """Let the site's validation studies decide what it deploys, where the method wants that."""
        job = self.job
        if not job.chooses or "validation" not in job.splits:
            return None
        networks = client.networks
        if job.reference is not None:
            networks.add("local", load_tensors(job.reference))
        if weights is not None:
            begin = time.perf_counter()
            client.fine_tune(_exchange(weights), {ROUND: number, ROUNDS: job.rounds, SIGNALS: signals})
            report.engine_seconds += time.perf_counter() - begin
        default = networks.deployed
        singles = (*networks.trained, *(("global",) if weights is not None else ()), *networks.added)
        candidates = []
        for names in (default, *((name,) for name in singles if (name,) != default)):
            networks.deployed = names
            self._evaluate(number, "deployed", "validation", weights, report)
            columns, studies = client.studies
            candidates.append(Candidate(names, studies))
        if not columns:
            networks.deployed = default
            return None
        seed = derive_seed(job.seed, job.name, "deployment")
        choice = choose(columns, candidates[0], candidates[1:], seed, job.validation_patients)
        networks.deployed = choice.networks
        return choice

    def _deploy(self, client: FedHelpAlgo, choice: Choice | None) -> None:
        with replacing_folder(self.job.folder / "deployed") as folder:
            networks = client.networks
            for model in networks.deployed:
                save_tensors(folder / f"{model}.safetensors", networks[model].state_dict())
            write_json(
                folder / "meta.json",
                {
                    "site": self.job.name,
                    "role": self.job.role,
                    "networks": list(networks.deployed),
                    "offset": list(networks.deployed_offset),
                    "rule": "mean of probabilities" if len(networks.deployed) > 1 else "single network",
                    "choice": None if choice is None else dataclasses.asdict(choice),
                    "bundle": self.job.bundle,
                    "configs": list(self.job.configs),
                },
            )

    @contextmanager
    def _failing_safely(self) -> Iterator[None]:
        """After a failure forget the client: the next call builds it from the last state on disk."""
        try:
            yield
        except BaseException:
            self._client = None
            raise


def studies_file(folder: Path, model: str, split: str) -> Path:
    """Return where a site keeps a network's results of single studies."""
    return folder / "studies" / ("" if split == "testing" else split) / f"{model}.csv"


def _exchange(weights: Path | None) -> ExchangeObject:
    return ExchangeObject(weights=None if weights is None else load_tensors(weights))
