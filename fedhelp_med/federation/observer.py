"""Who watches a run: a progress bar, a log, nobody."""

from typing import Protocol

from fedhelp_med.federation.hosts import Outcome
from fedhelp_med.federation.workspace import Row


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
