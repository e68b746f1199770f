"""The federation in one machine: initialise, then train, collect, aggregate, evaluate and commit, round by round."""

import dataclasses
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError, reason_of
from fedhelp_med.common.files import PARTIAL, alone_in
from fedhelp_med.common.versions import versions
from fedhelp_med.federation.aggregate import aggregate, site_weights
from fedhelp_med.federation.hosts import Hosts, open_hosts
from fedhelp_med.federation.jobs import site_job, upload_of
from fedhelp_med.federation.loading import Federation, naming, save_federation
from fedhelp_med.federation.observer import Observer, Silent
from fedhelp_med.federation.opening import open_workspace
from fedhelp_med.federation.server import Counts, Server
from fedhelp_med.federation.site import ClientFactory, fedhelp_client
from fedhelp_med.federation.site_messages import SiteReport
from fedhelp_med.federation.state import save_tensors
from fedhelp_med.federation.task import check_networks, task_constants
from fedhelp_med.federation.tracking import open_experiment
from fedhelp_med.federation.workspace import Row, Workspace, key_results
from fedhelp_med.methods import create_method

OpenSites = Callable[[Federation, Workspace, Mapping[str, Any]], Hosts]
"""Reaches the sites of a federation: its run folder and its task's constants come with it."""


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
        InputError: when ``out`` holds another run, another process works in it, or a network does not fit; nothing is
            written then.
        FedHelpError: when fewer sites than the quorum deliver an update.
    """
    observer = observer or Silent()
    with naming(federation.source):
        constants = task_constants(federation)
        check_networks(federation, constants)
    workspace = Workspace(out.absolute())  # sites' processes and MONAI read files in it from elsewhere
    with alone_in(workspace.root):
        open_workspace(workspace, federation, resume)
        run_methods(federation, workspace, constants, observer, in_this_machine(create))
    return workspace


def run_methods(
    federation: Federation, workspace: Workspace, constants: Mapping[str, Any], observer: Observer, sites: OpenSites
) -> "Runner":
    """Run the reference method where the file names one, then the federation's own; return the latter's runner."""
    if federation.file.reference and not workspace.finished:
        reference = reference_of(federation)
        if workspace.reference.committed() is None:
            save_federation(reference, workspace.reference.federation_file)
        if not (workspace.reference.complete and workspace.reference.root.is_symlink()):  # lent by a comparison
            Runner(reference, workspace.reference, constants, observer, sites).run()
    runner = Runner(federation, workspace, constants, observer, sites)
    runner.run()
    return runner


def in_this_machine(create: ClientFactory = fedhelp_client) -> OpenSites:
    """Return how to reach sites that live in this process or its workers."""

    def reach(federation: Federation, workspace: Workspace, constants: Mapping[str, Any]) -> Hosts:
        jobs = [site_job(federation, workspace, constants, site) for site in federation.sites]
        return open_hosts(jobs, federation.file.runtime.workers, create)

    return reach


class Runner:
    """Drives the sites of one federation under one method."""

    def __init__(
        self,
        federation: Federation,
        workspace: Workspace,
        constants: Mapping[str, Any],
        observer: Observer,
        sites: OpenSites,
    ) -> None:
        self.federation = federation
        self.file = federation.file
        self.method = federation.method
        self.workspace = workspace
        self.observer = observer
        self.constants = constants
        self._sites = sites
        self._rows: list[Row] = []
        self._failures: dict[str, str] = {}

    def run(self) -> None:
        """Run to the end from wherever the workspace stands; a finished one is left as it is.

        Raises:
            FedHelpError: when fewer sites than the quorum deliver an update, or testing fails at every site.
        """
        if self.workspace.finished:
            return
        self.workspace.discard_unfinished()
        done = self.workspace.committed()
        open_experiment(self.file)
        self.observer.started(self.method.name, done or 0, self.file.rounds, len(self.file.sites))
        with self._sites(self.federation, self.workspace, self.constants) as hosts:
            self.hosts = hosts
            self.server = Server(self.federation, self.constants, self.workspace, self._count_recognised)
            torch.set_num_threads(self.file.runtime.threads)
            if done is None:
                self._begin()
            else:
                self._continue(done)
            while self.server.round < self.file.rounds:
                self.server.round += 1
                self._round()
            final = self._message(self.server.round) if self.method.exchange == "weights" else None
            told = {site.name: dict(self.server.signals) for site in self.federation.sites}
            reports = self._collect("test", self.server.round, final, told)
            if not reports:
                raise FedHelpError("testing: it failed at every site; see events.jsonl")
            failed = {site: reason for site, reason in self._failures.items() if site not in reports}
        for name, report in reports.items():
            if report.choice is not None:
                self.server.record("deployment", site=name, **dataclasses.asdict(report.choice))
        self.workspace.finish(_rows(reports), failed)
        self.server.record("finished", software=versions())

    def _begin(self) -> None:
        """Round 0: the initial weights, past the method's gate, evaluated everywhere."""
        if self.method.exchange == "weights":
            self.server.weights = self.server.initial_weights()
            self.method.before_first_round(self.server)
            self.workspace.save_global(0, self.server.weights)
            self._rows = _rows(self._collect("evaluate", 0, self.workspace.model(0)))
        self.workspace.commit(0, self._rows, {"signals": self.server.signals})
        self.observer.round_done(0, self._rows)

    def _continue(self, done: int) -> None:
        """Go on after the last committed round."""
        self.server.round = done
        self.server.signals = self.workspace.meta(done)["signals"]
        self._rows = self.workspace.round_rows(done)
        if self.workspace.model(done).is_file():
            self.server.weights = self.workspace.load_global(done)

    def _round(self) -> None:
        begin = time.perf_counter()
        number = self.server.round
        reports = self._collect("train", number, self._message(number - 1), self._signals())
        if len(reports) < self.file.aggregation.minimum_sites:
            raise FedHelpError(
                f"round {number}: {len(reports)} of {len(self.federation.sites)} sites finished and "
                f"aggregation.minimum_sites is {self.file.aggregation.minimum_sites}; see events.jsonl, "
                "then go on with --resume"
            )
        self._rows = _rows(reports)
        shares: dict[str, float] = {}
        if self.method.exchange != "nothing":
            shares = self._aggregate(reports)
            self.method.after_aggregation(self.server)
            self.workspace.save_global(number, self.server.weights)
        if self.method.exchange == "weights":
            self._rows += _rows(self._collect("evaluate", number, self.workspace.model(number)))
        self.workspace.commit(number, self._rows, {"signals": self.server.signals, "weights": shares})
        costs = {
            name: {
                "seconds": round(r.seconds, 3),
                "engine_seconds": round(r.engine_seconds, 3),
                "bytes_sent": r.bytes_sent,
                "loss": r.loss,
                "loss_terms": r.loss_terms,
            }
            for name, r in reports.items()
        }
        self.server.record("round", seconds=round(time.perf_counter() - begin, 3), sites=costs)
        self.observer.round_done(number, self._rows)

    def _aggregate(self, reports: Mapping[str, SiteReport]) -> dict[str, float]:
        """Reduce what each site stored on arrival."""
        sites = {site.name: site for site in self.federation.sites if site.name in reports}
        shares = site_weights(
            {name: reports[name].samples for name in sites},
            {name: site.role for name, site in sites.items()},
            self.file.aggregation.weighting,
        )
        updates = {name: _StoredState(self.workspace.update(name, self.server.round)) for name in sites}
        base = self.server.weights if upload_of(self.federation) == "differences" else None
        self.server.weights = aggregate(updates, shares, base)
        self.server.updates = {name: _Uploaded(update, base) for name, update in updates.items()}
        return shares

    def last_uploads(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the full weights that the sites sent in the last round, from the workspace."""
        number = self.file.rounds
        files = {site.name: self.workspace.update(site.name, number) for site in self.federation.sites}
        base = self.workspace.load_global(number - 1) if upload_of(self.federation) == "differences" else None
        return {name: _Uploaded(_StoredState(file), base) for name, file in files.items() if file.is_file()}

    def _collect(self, step: str, *arguments: Any) -> dict[str, SiteReport]:
        """Run a step everywhere; a site that fails is recorded and left out."""
        reports: dict[str, SiteReport] = {}
        for name, outcome in self.hosts.each(step, *arguments):
            self.observer.site_done(self.server.round, name, step, outcome)
            if isinstance(outcome, Exception):
                trace = "".join(traceback.format_exception(outcome))
                self._failures[name] = reason_of(outcome)
                self.server.record("site_failed", site=name, step=step, error=reason_of(outcome), traceback=trace)
            else:
                reports[name] = outcome
        return reports

    def _count_recognised(self) -> Counts:
        """Let every site count what the server's current weights recognise of its training images."""
        with tempfile.TemporaryDirectory(dir=self.workspace.root, prefix=".probe-", suffix=PARTIAL) as folder:
            path = Path(folder) / "model.safetensors"
            save_tensors(path, self.server.weights)
            reports = self._collect("count", path)
        return {name: report.counts for name, report in reports.items() if report.counts}

    def _signals(self) -> dict[str, dict[str, Any]]:
        """What each site is told with a round: the method's signals, and its own last validation results."""
        return {
            site.name: {**self.server.signals, "validation": key_results(self._rows, site.name)}
            for site in self.federation.sites
        }

    def _message(self, number: int) -> Path | None:
        """Return the file of what the server made of a round's uploads, None where it made nothing."""
        path = self.workspace.model(number)
        return path if path.is_file() else None


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


class _Uploaded(Mapping[str, Tensor]):
    """A site's full weights, whether it sent them or their differences to ``base``."""

    def __init__(self, update: Mapping[str, Tensor], base: Mapping[str, Tensor] | None) -> None:
        self._update, self._base = update, base

    def __getitem__(self, key: str) -> Tensor:
        return self._update[key] if self._base is None else self._base[key] + self._update[key]

    def __iter__(self) -> Any:
        return iter(self._update)

    def __len__(self) -> int:
        return len(self._update)


def reference_of(federation: Federation) -> Federation:
    """Return the same federation under the reference method."""
    name = federation.file.reference
    assert name is not None
    file = federation.file.model_copy(update={"method": name, "settings": {}, "reference": None})
    return dataclasses.replace(federation, file=file, method=create_method(name, file.preset, {}))


def _rows(reports: Mapping[str, SiteReport]) -> list[Row]:
    return [row for report in reports.values() for row in report.rows]
