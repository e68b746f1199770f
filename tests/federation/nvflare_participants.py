"""Participants of an NVFlare job in this process, without NVFlare."""

import json
import threading
from pathlib import Path

import numpy as np

from fedhelp_med.federation.nvflare.script import Participant
from fedhelp_med.federation.nvflare.wire import REPORT


class Wire:
    """Tasks that reach participants in this process, as JSON and arrays, in threads as NVFlare does."""

    def __init__(self, plan, folder: Path, absent=()):
        self.plan, self.folder, self.absent = plan, folder, set(absent)
        self.participants: dict[str, Participant] = {}
        self.gone: set[str] = set()
        self.log: list[tuple[str, str]] = []

    def connected(self):
        return [site.name for site in self.plan.file.sites if site.name not in self.absent]

    def lost(self, site):
        return site in self.gone

    def aborted(self):
        return False

    def start(self, name, monkeypatch):
        monkeypatch.setenv("FEDHELP_RUN", str(self.folder / name))
        self.participants[name] = Participant(self.plan.for_site(name), name)

    def hand_out(self, site, step, meta, arrays, on_result):
        self.log.append((site, step))
        if site in self.gone:
            return
        meta = json.loads(json.dumps(meta))
        arrays = None if arrays is None else {key: np.array(value) for key, value in arrays.items()}

        class Result:
            pass

        def work():
            told, update = self.participants[site].answer(meta, arrays)
            result = Result()
            result.meta, result.params = {REPORT: json.dumps(told)}, update
            on_result(result)

        # One after the other: torch's random streams belong to the process, and sites have processes of their own.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
