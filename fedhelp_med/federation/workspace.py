"""The run folder on disk: a round is a transaction.

``global/round-0003/meta.json`` is written last and commits round 3. What belongs to an uncommitted round is discarded
when a run is resumed, and the round is repeated.
"""

import csv
import io
import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from fedhelp_med.common.files import remove_leftovers, replacing, to_json, write_json, write_text
from fedhelp_med.federation.state import load_tensors, save_tensors

KEPT_ROUNDS = 2
"""How many states of a site are kept, its newest: one that failed for some rounds goes on from the last that it has."""


@dataclass(frozen=True)
class Row:
    """A line of ``metrics.csv``."""

    round: int
    site: str
    role: str
    model: str
    split: str
    metric: str
    value: float


KEY_METRICS = ("auc", "dice_mean", "balanced_accuracy", "accuracy")
"""The metric by which networks are compared is the first of these that there is."""


def key_metric(metrics: Iterable[str]) -> str:
    """Return the metric by which networks are compared."""
    present = set(metrics)
    return next((metric for metric in KEY_METRICS if metric in present), min(present, default=""))


def key_results(rows: Iterable[Row], site: str) -> dict[str, float]:
    """Return a site's validation results in the key metric, by network."""
    own = [row for row in rows if row.site == site and row.split == "validation"]
    metric = key_metric(row.metric for row in own)
    return {row.model: row.value for row in own if row.metric == metric}


class Workspace:
    """Paths and transactions of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.federation_file = root / "federation.yaml"
        self.data_file = root / "data.json"
        self.metrics_file = root / "metrics.csv"
        self.events_file = root / "events.jsonl"

    def site(self, name: str) -> Path:
        """Return a site's folder."""
        return self.root / "sites" / name

    def update(self, name: str, number: int) -> Path:
        """Return the file of what a site uploaded in round ``number``."""
        return self.site(name) / f"round-{number:04d}" / "update.safetensors"

    def global_round(self, number: int) -> Path:
        """Return the folder of the global model after round ``number`` (0: the start)."""
        return self.root / "global" / f"round-{number:04d}"

    def model(self, number: int) -> Path:
        """Return the file of the global weights after round ``number``."""
        return self.global_round(number) / "model.safetensors"

    def save_global(self, number: int, weights: Mapping[str, Tensor]) -> None:
        """Write the global weights of a round that is not committed yet."""
        with replacing(self.model(number)) as temporary:
            save_tensors(temporary, weights)

    def load_global(self, number: int) -> dict[str, Tensor]:
        """Read the global weights after round ``number``."""
        return load_tensors(self.model(number))

    def commit(self, number: int, rows: Iterable[Row], details: Mapping[str, Any]) -> None:
        """Commit a round with its metrics, then bring ``metrics.csv`` up to date and forget old site states."""
        content = {"round": number, **details, "metrics": [astuple(row) for row in rows]}
        write_json(self.global_round(number) / "meta.json", content)
        self._write_metrics(self.rows())
        for site in self.root.glob("sites/*"):
            forget_states(site)

    def meta(self, number: int) -> dict[str, Any]:
        """Return what was committed with round ``number``."""
        content: dict[str, Any] = json.loads((self.global_round(number) / "meta.json").read_text(encoding="utf-8"))
        return content

    def committed(self) -> int | None:
        """Return the last committed round, None before the first."""
        return max((_number(path.parent) for path in self.root.glob("global/round-*/meta.json")), default=None)

    def discard_unfinished(self) -> None:
        """Remove what belongs to no committed round."""
        last = self.committed()
        for folder in (*self.root.glob("global/round-*"), *self.root.glob("sites/*/round-*")):
            if last is None or _number(folder) > last:
                shutil.rmtree(folder)
        remove_leftovers(self.root)

    def clear(self) -> None:
        """Remove everything that a run wrote."""
        for path in (self.reference.root, self.root / "global", self.root / "sites"):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.metrics_file, self.events_file, self.data_file, self.federation_file):
            path.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """Return all committed metrics: rounds in order, then testing, then those of the reference."""
        testing = self.root / "testing.json"
        return self._with_testing(_read_rows(testing)) if self.complete else self._rounds()

    def round_rows(self, number: int) -> list[Row]:
        """Return the metrics that were committed with a round, none of one that was not."""
        file = self.global_round(number) / "meta.json"
        return _read_rows(file) if file.is_file() else []

    def _rounds(self) -> list[Row]:
        return [row for file in sorted(self.root.glob("global/round-*/meta.json")) for row in _read_rows(file)]

    def _with_testing(self, testing: Iterable[Row]) -> list[Row]:
        reference = self.reference.rows() if self.reference.complete else []
        return [*self._rounds(), *testing, *(row for row in reference if row.model == "local")]

    def final(self, split: str = "testing") -> list[Row]:
        """Return the rows after the last round: of all networks on testing, of the deployed one on validation.

        Empty before the run is complete.
        """
        if not self.complete:
            return []
        return [row for row in _read_rows(self.root / "testing.json") if row.split == split]

    def finish(self, rows: Sequence[Row], failed: Mapping[str, str] | None = None) -> None:
        """Write ``metrics.csv`` with the rows on the testing split, then commit these: the run is complete.

        ``failed`` names the sites that have no such rows because testing failed there, and why.

        The commit is the last step, so that nothing of a complete run is missing or left over, whenever it is killed.
        """
        self._write_metrics(self._with_testing(rows))
        missing = {"failed": dict(failed)} if failed else {}
        write_json(self.root / "testing.json", {"metrics": [astuple(row) for row in rows], **missing})

    @property
    def reference(self) -> Self:
        """The run of the reference method, where the federation file names one."""
        return type(self)(self.root / "reference")

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return (self.root / "testing.json").is_file()

    @property
    def trained(self) -> bool:
        """Whether a round of training is committed, of the run or of a reference of its own."""
        borrowed = self.reference.root.is_symlink()
        return any(run.committed() for run in ((self,) if borrowed else (self, self.reference)))

    @property
    def untested(self) -> dict[str, str]:
        """The sites of a complete run at which testing failed, and why."""
        if not self.complete:
            return {}
        content = json.loads((self.root / "testing.json").read_text(encoding="utf-8"))
        return dict(content.get("failed", {}))

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: a site that finished no round has nothing that could be tested again."""
        return self.complete and not any(any(self.site(name).glob("round-*")) for name in self.untested)

    def _write_metrics(self, rows: Iterable[Row]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            *labels, value = astuple(row)
            writer.writerow([*labels, f"{value:.6f}"])
        write_text(self.metrics_file, text.getvalue())

    def record(self, event: str, **details: Any) -> None:
        """Append a line to ``events.jsonl``."""
        line = to_json({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details})
        self.root.mkdir(parents=True, exist_ok=True)
        with self.events_file.open("a+b") as file:
            if file.tell() and not _ends_whole(self.events_file):
                line = "\n" + line  # a killed run may have left half a line
            file.write(line.encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """Return the recorded events, without a half-written last line."""
        if not self.events_file.is_file():
            return []
        events = []
        for line in self.events_file.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events


def forget_states(site: Path) -> None:
    """Remove a site's older personal states from its folder."""
    for folder in sorted(site.glob("round-*"), key=_number)[:-KEPT_ROUNDS]:
        shutil.rmtree(folder)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def _read_rows(file: Path) -> list[Row]:
    return [_row(entries) for entries in json.loads(file.read_text(encoding="utf-8"))["metrics"]]


def _row(entries: list[Any]) -> Row:
    *labels, value = entries
    values = [*labels, math.nan if value is None else value]  # JSON has no NaN
    return Row(*values)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("round-"))
