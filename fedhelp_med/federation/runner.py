"""The federation in one machine: initialise, then train, collect, aggregate, evaluate and commit, round by round."""

import dataclasses
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from monai.bundle import ConfigParser
from safetensors import safe_open
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import write_json
from fedhelp_med.common.seeds import derive_seed, seed_everything
from fedhelp_med.federation.aggregate import aggregate, site_weights
from fedhelp_med.federation.config import Site
from fedhelp_med.federation.hosts import Hosts, Outcome, open_hosts
from fedhelp_med.federation.loading import Federation, load_federation, naming, save_federation
from fedhelp_med.federation.site import ClientFactory, SiteJob, SiteReport, fedhelp_client
from fedhelp_med.federation.task import check_networks, site_overlay, task_constants
from fedhelp_med.federation.workspace import Row, Workspace
from fedhelp_med.methods import create_method
from fedhelp_med.networks import batch_norm_keys


class Observer(Protocol):
    """Who watches a run: a progress bar, a log, nobody."""

    def started(self, title: str, done: int, rounds: int, sites: int) -> None:
        """The run of a method begins, with ``done`` of ``rounds`` rounds behind it."""

    def site_done(self, number: int, site: str, step: str, outcome: Outcome) -> None:
        """A site finished ``train``, ``evaluate`` or ``test`` in round ``number``."""

    def round_done(self, number: int, rows: list[Row]) -> None:
        """A round is committed."""


class Silent:
    """An observer that says nothing."""

    def started(self, title: str, done: int, rounds: int, sites: int) -> None:
        """Say nothing."""

    def site_done(self, number: int, site: str, step: str, outcome: Outcome) -> None:
        """Say nothing."""

    def round_done(self, number: int, rows: list[Row]) -> None:
        """Say nothing."""


def run_federation(
    federation: Federation,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    create: ClientFactory = fedhelp_client,
) -> Workspace:
    """Run a federation, and its reference method before it where the file names one.

    Args:
        federation: read by ``load_federation``.
        out: the run folder.
        resume: go on in an existing run folder of the same federation.
        observer: is told of every step.
        create: makes a site's MONAI ``ClientAlgo``.

    Raises:
        InputError: when ``out`` holds another run, or a network does not fit; nothing is written then.
        FedHelpError: when fewer sites than the quorum deliver an update.
    """
    observer = observer or Silent()
    with naming(federation.source):
        constants = task_constants(federation)
        check_networks(federation, constants)
    workspace = Workspace(out)
    _open(workspace, federation, resume)
    if federation.file.reference and not workspace.complete:
        reference = _reference(federation)
        _open(workspace.reference, reference, resume=True)
        Runner(reference, workspace.reference, constants, observer, create).run()
    Runner(federation, workspace, constants, observer, create).run()
    return workspace


class Runner:
    """Drives the sites of one federation under one method."""

    def __init__(
        self,
        federation: Federation,
        workspace: Workspace,
        constants: Mapping[str, Any],
        observer: Observer,
        create: ClientFactory,
    ) -> None:
        self.federation = federation
        self.file = federation.file
        self.method = federation.method
        self.workspace = workspace
        self.observer = observer
        self.constants = constants
        self._create = create
        self.round = 0
        self.weights: dict[str, Tensor] = {}

    def run(self) -> None:
        """Run to the end from wherever the workspace stands."""
        if self.workspace.complete:
            return
        self.workspace.discard_unfinished()
        jobs = [self._job(site) for site in self.federation.sites]
        done = self.workspace.committed()
        self.observer.started(self.method.name, done or 0, self.file.rounds, len(jobs))
        with open_hosts(jobs, self.file.runtime.workers, self._create) as hosts:
            if done is None:
                self._begin(hosts)
            elif self.method.exchanges:
                self.weights = self.workspace.load_global(done)
            self.round = done or 0
            while self.round < self.file.rounds:
                self.round += 1
                self._round(hosts)
            reports = self._collect(hosts, "test", self.round, self._model(self.round))
            if not reports:
                raise FedHelpError("testing: it failed at every site; see events.jsonl")
        self.workspace.finish([row for report in reports.values() for row in report.rows])
        self.workspace.record("finished", rounds=self.round)

    def record(self, event: str, **details: Any) -> None:
        """Write a line to ``events.jsonl``; part of what a method's server steps may use."""
        self.workspace.record(event, round=self.round, **details)

    def _begin(self, hosts: Hosts) -> None:
        """Round 0: the initial weights, past the method's gate, evaluated everywhere."""
        rows: list[Row] = []
        if self.method.exchanges:
            self.weights = self._initial_weights()
            self.method.before_first_round(self)
            self.workspace.save_global(0, self.weights)
            rows = _rows(self._collect(hosts, "evaluate", 0, self.workspace.model(0)))
        self.workspace.commit(0, rows, {})
        self.observer.round_done(0, rows)

    def _round(self, hosts: Hosts) -> None:
        begin = time.perf_counter()
        reports = self._collect(hosts, "train", self.round, self._model(self.round - 1))
        if len(reports) < self.file.aggregation.minimum_sites:
            raise FedHelpError(
                f"round {self.round}: {len(reports)} of {len(self.federation.sites)} sites finished and "
                f"aggregation.minimum_sites is {self.file.aggregation.minimum_sites}; see events.jsonl, "
                "then go on with --resume"
            )
        rows = _rows(reports)
        shares: dict[str, float] = {}
        if self.method.exchanges:
            shares = self._aggregate(sorted(reports))
            self.method.after_aggregation(self)
            self.workspace.save_global(self.round, self.weights)
            rows += _rows(self._collect(hosts, "evaluate", self.round, self.workspace.model(self.round)))
        self.workspace.commit(self.round, rows, {"weights": shares})
        self.record(
            "round",
            seconds=round(time.perf_counter() - begin, 3),
            sites={
                name: {
                    "seconds": round(report.seconds, 3),
                    "bytes_sent": report.bytes_sent,
                    "loss_terms": report.loss_terms,
                }
                for name, report in reports.items()
            },
        )
        self.observer.round_done(self.round, rows)

    def _aggregate(self, names: list[str]) -> dict[str, float]:
        """Reduce what each site stored on arrival."""
        sites = {site.name: site for site in self.federation.sites if site.name in names}
        shares = site_weights(
            {name: self.federation.datalists[name].samples("training") for name in sites},
            {name: site.role for name, site in sites.items()},
            self.file.aggregation.weighting,
        )
        folders = {name: self.workspace.site(name) / f"round-{self.round:04d}" for name in sites}
        updates = {name: _StoredState(folder / "update.safetensors") for name, folder in folders.items()}
        differences = self.file.aggregation.upload == "differences"
        self.weights = aggregate(updates, shares, self.weights if differences else None)
        return shares

    def _collect(self, hosts: Hosts, step: str, *arguments: Any) -> dict[str, SiteReport]:
        """Run a step everywhere; a site that fails is recorded and left out."""
        reports: dict[str, SiteReport] = {}
        for name, outcome in hosts.each(step, *arguments):
            self.observer.site_done(self.round, name, step, outcome)
            if isinstance(outcome, Exception):
                trace = "".join(traceback.format_exception(outcome))
                self.record("site_failed", site=name, step=step, error=_reason(outcome), traceback=trace)
            else:
                reports[name] = outcome
        return reports

    def _model(self, number: int) -> Path | None:
        return self.workspace.model(number) if self.method.exchanges else None

    def _initial_weights(self) -> dict[str, Tensor]:
        """Build the exchanged network as every site does, from its own seed."""
        site = self.federation.sites[0]
        parser = ConfigParser()
        parser.read_config([str(self.federation.bundle / self.method.plan(site.role).configs[0])])
        parser.update(pairs=site_overlay(self.federation, site, self.constants))
        seed_everything(derive_seed(self.file.seed, "network"))
        network = parser.get_parsed_content("network_def")
        local = batch_norm_keys(network) if self.file.aggregation.batch_norm == "keep-local" else frozenset()
        return {key: tensor.detach().clone() for key, tensor in network.state_dict().items() if key not in local}

    def _job(self, site: Site) -> SiteJob:
        """Write the site's config and describe what its process has to do."""
        folder = self.workspace.site(site.name)
        overlay_file = folder / "config.json"
        write_json(overlay_file, site_overlay(self.federation, site, self.constants))
        plan = self.method.plan(site.role)
        datalist = self.federation.datalists[site.name]
        return SiteJob(
            name=site.name,
            role=site.role,
            bundle=str(self.federation.bundle),
            configs=(*plan.configs, str(overlay_file)),
            folder=folder,
            seed=self.file.seed,
            rounds=self.file.rounds,
            local_epochs=self.file.local_epochs,
            samples=datalist.samples("training"),
            splits=tuple(split for split, items in datalist.splits.items() if items),
            has_large=site.role == "large",
            trained=plan.trained,
            deployed=plan.deployed,
            keep_optimizer=self.method.keeps_optimizer,
            exchanges=self.method.exchanges,
            upload=self.file.aggregation.upload,
            batch_norm=self.file.aggregation.batch_norm,
            threads=self.file.runtime.threads,
            timeout=self.file.runtime.site_timeout,
        )


class _StoredState(Mapping[str, Tensor]):
    """A state whose tensors are read from its file one at a time."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._keys = list(self._file.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _open(workspace: Workspace, federation: Federation, resume: bool) -> None:
    """Make the run folder, or check that it holds the same federation."""
    if not workspace.root.exists() or not any(workspace.root.iterdir()):
        save_federation(federation, workspace.federation_file)
        return
    if not workspace.federation_file.is_file():
        raise InputError(f"{workspace.root}: is not empty and not a run; choose another --out")
    if not resume:
        raise InputError(f"{workspace.root}: holds a run already; go on with --resume, or choose another --out")
    earlier = load_federation(workspace.federation_file).file
    if _numbers(earlier) != _numbers(federation.file):
        changed = sorted(
            key for key in type(earlier).model_fields if getattr(earlier, key) != getattr(federation.file, key)
        )
        raise InputError(
            f"{workspace.root}: holds a run of another federation (different: {', '.join(changed)}); "
            "choose another --out, or undo the change"
        )


def _numbers(file: Any) -> Any:
    """What the numbers depend on: everything but the workers."""
    return file.model_copy(update={"runtime": file.runtime.model_copy(update={"workers": 1})})


def _reference(federation: Federation) -> Federation:
    """Return the same federation under the reference method."""
    name = federation.file.reference
    assert name is not None
    changes: dict[str, Any] = {"method": name, "preset": "paper", "settings": {}, "reference": None}
    return dataclasses.replace(
        federation, file=federation.file.model_copy(update=changes), method=create_method(name, "paper", {})
    )


def _rows(reports: Mapping[str, SiteReport]) -> list[Row]:
    return [row for report in reports.values() for row in report.rows]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, FedHelpError) else f"{type(error).__name__}: {error}"
