"""An acquisition from a service: what became of its attempts, and of its ledger."""

import contextlib
import sqlite3

import numpy as np
from foundation_phantoms import CLASSES, SPEC, write_public
from foundation_server import scores_of

from fedhelp_med.foundation import Ledger, ModelDescription, OipModel, acquire, content_key
from fedhelp_med.foundation.endpoint import Endpoint
from fedhelp_med.foundation.retries import Retries
from fedhelp_med.foundation.service import Service

QUICK = Retries(attempts=3, first_pause=0.001, longest_pause=10)
IMAGES = 3


class Asked:
    """A client, what it was asked for, and its ledger."""

    def __init__(self, folder, url, retries=QUICK, timeout=5.0, **endpoint):
        service = Service("foundation model tiny", Endpoint(url, timeout=timeout, **endpoint), retries)
        self.model = OipModel(ModelDescription("tiny", "1", CLASSES, SPEC), service)
        self.datalist, self.ledger = folder / "datalist.json", folder / "knowledge.sqlite"
        write_public(folder, range(IMAGES))

    def acquire(self):
        return acquire(self.datalist, self.model, self.ledger)

    @property
    def attempts(self):
        """What the ledger tells of each attempt: status, number, images, in their order."""
        with contextlib.closing(sqlite3.connect(self.ledger)) as connection:
            return connection.execute("SELECT status, number, images FROM attempts ORDER BY id").fetchall()

    @property
    def statuses(self):
        """How the attempts with images ended."""
        return [status for status, _, images in self.attempts if images]

    def check_failed(self):
        """The ledger tells of calls that failed, and of nothing else."""
        with Ledger(self.ledger, readonly=True) as ledger:
            summary = ledger.summary()
        assert (summary.images, summary.failed, summary.uncertain) == (0, summary.calls, 0)

    def check_complete(self, server):
        """A run without faults asks for what is missing, gets the right answers, and another one asks nothing."""
        assert self.acquire().asked in (0, IMAGES)
        requests = len(server.requests)
        assert self.acquire().asked == 0
        assert len(server.requests) == requests
        pixels = [SPEC.preprocess(path) for path in sorted(self.datalist.parent.glob("images/*"))]
        with Ledger(self.ledger, readonly=True) as ledger:
            answers = ledger.answers(content_key(image, self.model) for image in pixels)
            assert ledger.summary().images == IMAGES
        np.testing.assert_allclose(list(answers.values()), scores_of(np.stack(pixels))[:, :2], atol=1e-6)
