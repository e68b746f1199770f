"""The ledger: what a foundation model has answered, so that no image is ever sent to it twice.

One SQLite file in WAL mode with ``synchronous=FULL``. A call is written down before it is sent and completed
together with its answers in one transaction: after a crash the ledger holds whole batches only, and a call that
is still ``sent`` tells that its images may have reached the model although no answer was kept.

Whoever sends holds a lease on the images of the call. Other processes leave them alone until they are answered, or
until the holder has died or given no sign of life for ``LEASE_SECONDS``.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from numpy.typing import NDArray

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.addresses import file_stamp
from fedhelp_med.foundation.attempts import Attempt
from fedhelp_med.foundation.holders import is_alive, this_process
from fedhelp_med.foundation.payloads import Row, damaged, pack, unpack
from fedhelp_med.foundation.protocol import Described, ModelDescription
from fedhelp_med.foundation.storage import Storage
from fedhelp_med.foundation.totals import LedgerSummary, summarise

LEASE_SECONDS = 120.0
ROW = "key, payload, dtype, shape, sha256"
AMONG = "key IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True)
class Claim:
    """The images that a process may send, which no other process will send meanwhile.

    Attributes:
        call: the number of the call that was written down for them; None if there are none.
        keys: the images.
        held: images that were asked for too, but are under way already.
    """

    call: int | None
    keys: tuple[str, ...]
    held: tuple[str, ...]


class Ledger(Storage):
    """The answers of foundation models, by content.

    Several processes may use one ledger; each opens its own.

    Args:
        path: the file; it is made if it does not exist.
        readonly: refuse to write, and to make a file.

    Raises:
        InputError: if the file is no ledger, one of another schema version, or absent with ``readonly``.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedhelp_med.foundation.protocol import InputSpec
        >>> model = ModelDescription("chest", "1", ("healthy", "ill"), InputSpec(1, (224, 224)))
        >>> with Ledger(Path("knowledge.sqlite")) as ledger:
        ...     claim = ledger.claim(model, ["content-key-a", "content-key-b"])
        ...     answers = {key: np.zeros(2, np.float32) for key in claim.keys}  # what the model says
        ...     ledger.store(claim.call, answers)
        ...     ledger.missing(["content-key-b", "content-key-c"])
        ['content-key-c']
    """

    def register(self, model: Described) -> int:
        """Write down a model's description, if it is new, and return its number.

        Raises:
            InputError: if the ledger knows this name and version with another description.
        """
        description = json.dumps(ModelDescription.of(model).to_dict(), sort_keys=True)
        find = "SELECT id, description FROM models WHERE name = ? AND version = ?"
        rows = self.rows(find, (model.name, model.version))
        if not rows:
            with self.transaction() as write:
                write.execute(
                    "INSERT INTO models (name, version, description) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (model.name, model.version, description),
                )
            rows = self.rows(find, (model.name, model.version))
        if rows[0][1] != description:
            raise InputError(
                f"the ledger {self.path} knows {model.name} {model.version} with other classes, kind or input: "
                "give the changed model another version"
            )
        return int(rows[0][0])

    def models(self) -> list[ModelDescription]:
        """Return the descriptions of the models, in the order in which they were registered."""
        rows = self.rows("SELECT description FROM models ORDER BY id")
        return [ModelDescription.from_dict(json.loads(description)) for (description,) in rows]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of ``keys`` that have no answer, each once, in their order."""
        wanted = list(dict.fromkeys(keys))
        found = {key for (key,) in self.rows(f"SELECT key FROM answers WHERE {AMONG}", (json.dumps(wanted),))}
        return [key for key in wanted if key not in found]

    def held(self, keys: Iterable[str]) -> set[str]:
        """Return those of ``keys`` that a living process is waiting for."""
        query = f"SELECT key, holder, expires FROM leases JOIN sent ON sent.call = leases.call WHERE {AMONG}"
        rows = self.rows(query, (json.dumps(list(keys)),))
        return {key for key, holder, expires in rows if is_alive(holder, expires)}

    def claim(self, model: Described, keys: Iterable[str]) -> Claim:
        """Write down that images are about to be sent, before they are, and keep other processes from sending them.

        Images that have an answer by now are left out, and so are those that are under way.

        Args:
            model: the model that is asked.
            keys: the content keys of the images.
        """
        number = self.register(model)
        with self.transaction() as write:
            missing = self.missing(keys)
            held = self.held(missing)
            free = tuple(key for key in missing if key not in held)
            if not free:
                return Claim(None, (), tuple(held))
            call = write.execute(
                "INSERT INTO calls (model, time, images, bytes, status) VALUES (?, ?, ?, ?, 'sent')",
                (number, _now(), len(free), 4 * math.prod(model.input.shape) * len(free)),
            ).lastrowid
            write.executemany("INSERT INTO sent (key, call) VALUES (?, ?)", [(key, call) for key in free])
            lease = (call, this_process(), time.time() + LEASE_SECONDS)
            write.execute("INSERT INTO leases (call, holder, expires) VALUES (?, ?, ?)", lease)
        return Claim(call, free, tuple(key for key in missing if key in held))

    def renew(self, attempts: Mapping[int | None, Sequence[Attempt]]) -> None:
        """Say that calls are still waited for, and write down the attempts that were made meanwhile, by call."""
        expires = time.time() + LEASE_SECONDS
        with self.transaction() as write:
            write.executemany("UPDATE leases SET expires = ? WHERE call = ?", [(expires, call) for call in attempts])
            for call, made in attempts.items():
                _note(write, call, made)

    def release(self, calls: Iterable[int]) -> None:
        """Give up waiting for calls: they stay ``sent``, and their images may be sent again."""
        with self.transaction() as write:
            write.executemany("DELETE FROM leases WHERE call = ?", [(call,) for call in calls])

    def store(
        self,
        call: int,
        answers: Mapping[str, NDArray[Any]],
        seconds: float | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        """Keep the answers of a call and complete it, in one transaction.

        An answer that another process stored meanwhile stays as it is.

        Args:
            call: the number that :meth:`claim` gave.
            answers: one float32 or float16 array per image of the call.
            seconds: how long the call took.
            attempts: those of this call that are not written down yet.

        Raises:
            FedHelpError: if these are not the images of the call, or it is complete already.
        """
        keys = {key for (key,) in self.rows("SELECT key FROM sent WHERE call = ?", (call,))}
        if keys != set(answers):
            raise FedHelpError(f"call {call} of the ledger {self.path} asked about other images than were answered")
        model = self.rows("SELECT model FROM calls WHERE id = ?", (call,))[0][0]
        with self.transaction() as write:
            self._complete(write, call, "done", None, seconds, attempts)
            self.insert(write, model, [pack(key, answer) for key, answer in answers.items()])

    def fail(
        self,
        call: int,
        error: str,
        seconds: float | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        """Complete a call that gave no usable answer; nothing of it is kept but the reason."""
        with self.transaction() as write:
            self._complete(write, call, "failed", error, seconds, attempts)

    def answers(self, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the answers, read-only arrays `K` or `K, W, H[, D]`, in the order of ``keys``.

        Raises:
            FedHelpError: if a key has no answer, or an answer is not what was stored.
        """
        wanted = dict.fromkeys(keys)
        rows: list[Any]
        if 2 * len(wanted) > self.rows("SELECT count(*) FROM answers")[0][0]:  # to read on is quicker than to search
            rows = self.rows(f"SELECT {ROW} FROM answers")
            if len(rows) > len(wanted):
                rows = [row for row in rows if row[0] in wanted]
        else:
            rows = self.rows(f"SELECT {ROW} FROM answers WHERE {AMONG}", (json.dumps(list(wanted)),))
        bad = next(damaged(rows), None)
        if bad is not None:
            raise FedHelpError(
                f"the answer {bad} in the ledger {self.path} is damaged: restore the file from a copy, "
                "or acquire into a new one"
            )
        found = unpack(rows)
        absent = [key for key in wanted if key not in found]
        if absent:
            raise FedHelpError(f"the ledger {self.path} has no answer for {len(absent)} images, {absent[0]} the first")
        return {key: found[key] for key in wanted}

    def remember(self, model: Described, entries: Sequence[tuple[str, str, str]]) -> None:
        """Remember the keys of files (path, stamp taken before it was read, key), which saves reading them again."""
        number = self.register(model)
        with self.transaction() as write:
            write.executemany(
                "INSERT OR REPLACE INTO images (path, model, stamp, key) VALUES (?, ?, ?, ?)",
                [(path, number, stamp, key) for path, stamp, key in entries],
            )

    def recall(self, model: Described, paths: Iterable[str]) -> dict[str, str]:
        """Return the keys of those files that are remembered and have not changed since."""
        query = (
            "SELECT path, stamp, key FROM images JOIN models ON models.id = model "
            "WHERE name = ? AND version = ? AND path IN (SELECT value FROM json_each(?))"
        )
        rows = self.rows(query, (model.name, model.version, json.dumps(list(paths))))
        return {path: key for path, stamp, key in rows if stamp == file_stamp(path)}

    def summary(self) -> LedgerSummary:
        """Return the totals."""
        return summarise(self)

    def insert(self, write: sqlite3.Connection, model: int, rows: Iterable[Row]) -> int:
        """Keep answers of a model, in a transaction; return how many were new. The first answer to an image stays."""
        return write.executemany(
            f"INSERT INTO answers ({ROW}, model) VALUES (?, ?, ?, ?, ?, {model:d}) ON CONFLICT (key) DO NOTHING", rows
        ).rowcount

    def _complete(
        self,
        write: sqlite3.Connection,
        call: int,
        status: str,
        error: str | None,
        seconds: float | None,
        attempts: Sequence[Attempt],
    ) -> None:
        changed = write.execute(
            "UPDATE calls SET status = ?, seconds = ?, error = ? WHERE id = ? AND status = 'sent'",
            (status, seconds, error, call),
        ).rowcount
        if changed != 1:
            raise FedHelpError(f"call {call} of the ledger {self.path} is unknown or complete already")
        write.execute("DELETE FROM leases WHERE call = ?", (call,))
        _note(write, call, attempts)


def _note(write: sqlite3.Connection, call: int | None, attempts: Sequence[Attempt]) -> None:
    write.executemany(
        "INSERT INTO attempts (call, time, number, images, sent, received, seconds, status) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (call, _now(), made.number, made.images, made.sent_bytes, made.received_bytes, made.seconds, made.status)
            for made in attempts
        ],
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
