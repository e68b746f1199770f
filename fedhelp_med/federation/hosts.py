"""Where the sites live: all in this process, or shared out among worker processes."""

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from fedhelp_med.common.errors import FedHelpError, reason_of
from fedhelp_med.federation.site import ClientFactory, SiteHost, fedhelp_client
from fedhelp_med.federation.site_messages import SiteJob, SiteReport

Result = TypeVar("Result")
Outcome = SiteReport | Exception
"""What a site's step came to."""


class Hosts(Protocol):
    """Executes one step at every site."""

    def each(self, step: str, *arguments: Any) -> Iterator[tuple[str, Outcome]]:
        """Run ``SiteHost.step(*arguments)`` at each site; yield outcomes in the order of the sites' names."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InProcess:
    """All sites in this process, one after the other."""

    def __init__(self, jobs: Sequence[SiteJob], create: ClientFactory = fedhelp_client) -> None:
        self._hosts = {job.name: SiteHost(job, create) for job in sorted(jobs, key=lambda job: job.name)}

    def each(self, step: str, *arguments: Any) -> Iterator[tuple[str, Outcome]]:
        """Run the step at one site after the other."""
        for name, host in self._hosts.items():
            try:
                yield name, getattr(host, step)(*arguments)
            except Exception as error:
                yield name, error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hosts.clear()


class Workers:
    """Sites shared out among processes; a site stays with its process, which keeps its data and networks.

    The outcome does not depend on the number of processes: every site's numbers follow from its seeds and threads.
    """

    def __init__(self, jobs: Sequence[SiteJob], workers: int, create: ClientFactory = fedhelp_client) -> None:
        self._create = create
        self._jobs = {job.name: job for job in sorted(jobs, key=lambda job: job.name)}
        self._place = _shared_out(jobs, workers)
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def each(self, step: str, *arguments: Any) -> Iterator[tuple[str, Outcome]]:
        """Run the step at all sites, those with the most images first."""
        order = sorted(self._jobs.values(), key=lambda job: -job.samples)
        futures = {job.name: self._submit(job, step, arguments) for job in order}
        for name in self._jobs:
            try:
                yield name, futures[name].result()
            except Exception as error:
                if self._broken(name):
                    self._pools.pop(self._place[name]).shutdown(wait=False)
                yield name, error

    def _submit(self, job: SiteJob, step: str, arguments: tuple[Any, ...]) -> "Future[SiteReport]":
        return submit(self._pools, self._place[job.name], _step, job, self._create, step, arguments)

    def _broken(self, name: str) -> bool:
        pool = self._pools.get(self._place[name])
        return pool is not None and bool(getattr(pool, "_broken", False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        self._pools.clear()


def open_hosts(jobs: Sequence[SiteJob], workers: int, create: ClientFactory = fedhelp_client) -> Hosts:
    """Return where the sites live: this process for one worker, else as many processes as are of use."""
    workers = min(workers, len(jobs))
    return InProcess(jobs, create) if workers == 1 else Workers(jobs, workers, create)


def _shared_out(jobs: Sequence[SiteJob], workers: int) -> dict[str, int]:
    """Give each site, largest first, to the process that has the fewest images so far."""
    load = [0] * workers
    place = {}
    for job in sorted(jobs, key=lambda job: (-job.samples, job.name)):
        place[job.name] = index = load.index(min(load))
        load[index] += job.samples
    return place


def submit(
    pools: dict[int, ProcessPoolExecutor], place: int, task: Callable[..., Result], *arguments: Any
) -> "Future[Result]":
    """Hand a task to the process at ``place``, to a new one where there is none or where it died while idle."""
    if place in pools:
        try:
            return pools[place].submit(task, *arguments)
        except BrokenProcessPool:
            pools.pop(place).shutdown(wait=False)
    pools[place] = worker_process()
    return pools[place].submit(task, *arguments)


def worker_process() -> ProcessPoolExecutor:
    """Return a pool of one fresh process, which does not outlive this one and is no more talkative."""
    loggers = ((name, logging.getLogger(name).level) for name in list(logging.root.manager.loggerDict))
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=({name: level for name, level in loggers if level}, list(warnings.filters)),
    )


_HOSTS: dict[str, SiteHost] = {}
"""The sites of this worker process."""


def _step(job: SiteJob, create: Callable[[SiteJob], Any], step: str, arguments: tuple[Any, ...]) -> SiteReport:
    host = _HOSTS.setdefault(job.name, SiteHost(job, create))
    try:
        report: SiteReport = getattr(host, step)(*arguments)
    except FedHelpError:
        raise
    except Exception as error:  # what it was raised from does not travel between processes: tell it here
        raise FedHelpError(reason_of(error)) from error
    return report


def _begin_worker(levels: Mapping[str, int], filters: Sequence[Any]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    warnings.filters[:] = filters  # type: ignore[index]
    _die_with_parent()


def _die_with_parent() -> None:
    """A worker whose runner was killed must not train on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
