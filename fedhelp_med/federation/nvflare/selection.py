"""Which of the global models was best for the small sites, and how each site's own does at the others."""

import csv
import io
import json
import math
import tempfile
from pathlib import Path

from fedhelp_med.common.files import replacing, write_json, write_text
from fedhelp_med.federation.hosts import Hosts, Outcome
from fedhelp_med.federation.runner import Runner
from fedhelp_med.federation.state import save_tensors
from fedhelp_med.federation.workspace import Row, Workspace, key_metric

CROSS_SITE = "cross_site.csv"


class BestModel:
    """Keeps the global model of the round that was best for the small sites, on their validation studies.

    Args:
        workspace: the server's run folder; the model goes to ``best/``.
        small: the names of the small sites; all sites where there is none.
    """

    def __init__(self, workspace: Workspace, small: list[str]) -> None:
        self._workspace = workspace
        self._small = set(small)

    def started(self, title: str, done: int, rounds: int, sites: int) -> None:
        """Say nothing."""

    def site_done(self, number: int, site: str, step: str, outcome: Outcome) -> None:
        """Say nothing."""

    def round_done(self, number: int, rows: list[Row]) -> None:
        """Compare the round with the best so far."""
        own = [row for row in rows if row.model == "global" and row.split == "validation" and row.site in self._small]
        metric = key_metric(row.metric for row in own)
        values = [row.value for row in own if row.metric == metric and math.isfinite(row.value)]
        if not values:
            return
        mean = sum(values) / len(values)
        meta = self._workspace.root / "best" / "meta.json"
        if meta.is_file() and json.loads(meta.read_text(encoding="utf-8"))["value"] >= mean:
            return
        with replacing(meta.with_name("model.safetensors")) as temporary:
            save_tensors(temporary, self._workspace.load_global(number))
        write_json(meta, {"round": number, "metric": metric, "value": mean, "sites": sorted(self._small)})


def cross_evaluate(runner: Runner, hosts: Hosts, workspace: Workspace) -> None:
    """Let every site test every site's last upload, and write ``cross_site.csv``, once for a run.

    Only exchanged networks are tested: a large network does not leave its site.
    """
    if (workspace.root / CROSS_SITE).is_file():
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network_of", "site", "split", "metric", "value"])
    for owner, state in sorted(runner.last_uploads().items()):
        with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".cross-") as folder:
            path = Path(folder) / "model.safetensors"
            save_tensors(path, dict(state))
            for name, outcome in hosts.each("evaluate", runner.file.rounds, path, "testing"):
                if isinstance(outcome, Exception):
                    workspace.record("site_failed", site=name, step="cross-site evaluation", error=str(outcome))
                    continue
                for row in outcome.rows:
                    writer.writerow([owner, name, row.split, row.metric, f"{row.value:.6f}"])
    write_text(workspace.root / CROSS_SITE, text.getvalue())
