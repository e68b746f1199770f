"""The ledger: what a foundation model has answered, so that no image is ever sent to it twice.

One SQLite file in WAL mode with ``synchronous=FULL``. A call is written down before it is sent and completed
together with its answers in one transaction: after a crash the ledger holds whole batches only, and a call that
is still ``sent`` tells that its images may have reached the model although no answer was kept.
"""

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.addresses import file_stamp
from fedhelp_med.foundation.protocol import Described, ModelDescription
from fedhelp_med.foundation.storage import connect

PAYLOAD_DTYPES = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class LedgerSummary:
    """Totals of a ledger.

    Attributes:
        images: answered images.
        calls: calls to the model, whatever became of them.
        bytes: bytes of the images in these calls.
        failed: calls whose answer was refused or did not come.
        uncertain: calls that were sent and never completed (or are under way in another process).
        resent: images that were part of more than one call.
    """

    images: int
    calls: int
    bytes: int
    failed: int
    uncertain: int
    resent: int


class Ledger:
    """The answers of foundation models, by content.

    Several processes may use one ledger; each opens its own.

    Args:
        path: the file; it is made if it does not exist.
        readonly: refuse to write, and to make a file.

    Raises:
        InputError: if the file is no ledger, one of another schema version, or absent with ``readonly``.

    Example:
        >>> with Ledger(Path("knowledge.sqlite")) as ledger:  # doctest: +SKIP
        ...     call = ledger.intend(model, ledger.missing(keys))
        ...     ledger.store(call, {key: logits for key, logits in zip(keys, model.predict(batch))})
    """

    def __init__(self, path: str | Path, readonly: bool = False) -> None:
        self.path = Path(path)
        self.readonly = readonly
        self._started: dict[int, float] = {}
        self._connection = connect(self.path, readonly)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was stored is on the disk already."""
        self._connection.close()

    def register(self, model: Described) -> int:
        """Write down a model's description, if it is new, and return its number.

        Raises:
            InputError: if the ledger knows this name and version with another description.
        """
        description = json.dumps(ModelDescription.of(model).to_dict(), sort_keys=True)
        find = "SELECT id, description FROM models WHERE name = ? AND version = ?"
        rows = self._rows(find, (model.name, model.version))
        if not rows:
            with self._transaction() as write:
                write.execute(
                    "INSERT INTO models (name, version, description) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (model.name, model.version, description),
                )
            rows = self._rows(find, (model.name, model.version))
        if rows[0][1] != description:
            raise InputError(
                f"the ledger {self.path} knows {model.name} {model.version} with other classes, kind or input: "
                "give the changed model another version"
            )
        return int(rows[0][0])

    def models(self) -> list[ModelDescription]:
        """Return the descriptions of the models, in the order in which they were registered."""
        rows = self._rows("SELECT description FROM models ORDER BY id")
        return [ModelDescription.from_dict(json.loads(description)) for (description,) in rows]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of ``keys`` that have no answer, each once, in their order."""
        wanted = list(dict.fromkeys(keys))
        known = "SELECT key FROM answers WHERE key IN (SELECT value FROM json_each(?))"
        found = {key for (key,) in self._rows(known, (json.dumps(wanted),))}
        return [key for key in wanted if key not in found]

    def intend(self, model: Described, keys: Sequence[str], size: int | None = None) -> int:
        """Write down that images are about to be sent, before they are, and return the number of the call.

        Args:
            model: the model that is asked.
            keys: the content keys of the images.
            size: the bytes that are sent; by default those of the images as float32.
        """
        number = self.register(model)
        size = 4 * math.prod(model.input.shape) * len(keys) if size is None else size
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._transaction() as write:
            call = write.execute(
                "INSERT INTO calls (model, time, images, bytes, status) VALUES (?, ?, ?, ?, 'sent')",
                (number, now, len(keys), size),
            ).lastrowid
            assert call is not None
            write.executemany("INSERT INTO sent (key, call) VALUES (?, ?)", [(key, call) for key in keys])
        self._started[call] = time.perf_counter()
        return call

    def store(self, call: int, answers: Mapping[str, NDArray[Any]]) -> None:
        """Keep the answers of a call and complete it, in one transaction.

        An answer that another process stored meanwhile stays as it is.

        Args:
            call: the number that :meth:`intend` gave.
            answers: one float32 or float16 array per image of the call.

        Raises:
            FedHelpError: if these are not the images of the call, or it is complete already.
        """
        keys = {key for (key,) in self._rows("SELECT key FROM sent WHERE call = ?", (call,))}
        if keys != set(answers):
            raise FedHelpError(f"call {call} of the ledger {self.path} asked about other images than were answered")
        with self._transaction() as write:
            self._complete(write, call, "done", None)
            write.executemany(
                "INSERT INTO answers (key, model, payload, dtype, shape, sha256) "
                "SELECT ?, model, ?, ?, ?, ? FROM calls WHERE id = ? ON CONFLICT (key) DO NOTHING",
                [(key, *_pack(answer), call) for key, answer in answers.items()],
            )

    def fail(self, call: int, error: str) -> None:
        """Complete a call that gave no usable answer; nothing of it is kept but the reason."""
        with self._transaction() as write:
            self._complete(write, call, "failed", error)

    def answers(self, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the answers, read-only arrays `K` or `K, H, W[, D]`, in the order of ``keys``.

        Raises:
            FedHelpError: if a key has no answer, or an answer is not what was stored.
        """
        wanted = list(dict.fromkeys(keys))
        query = "SELECT key, payload, dtype, shape, sha256 FROM answers WHERE key IN (SELECT value FROM json_each(?))"
        found = {row[0]: self._unpack(*row) for row in self._rows(query, (json.dumps(wanted),))}
        absent = [key for key in wanted if key not in found]
        if absent:
            raise FedHelpError(f"the ledger {self.path} has no answer for {len(absent)} images, {absent[0]} the first")
        return {key: found[key] for key in wanted}

    def remember(self, model: Described, entries: Sequence[tuple[str, str, str]]) -> None:
        """Remember the keys of files (path, stamp taken before it was read, key), which saves reading them again."""
        number = self.register(model)
        with self._transaction() as write:
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
        rows = self._rows(query, (model.name, model.version, json.dumps(list(paths))))
        return {path: key for path, stamp, key in rows if stamp == file_stamp(path)}

    def summary(self) -> LedgerSummary:
        """Return the totals."""
        totals = self._rows(
            "SELECT (SELECT count(*) FROM answers), count(*), coalesce(sum(bytes), 0), "
            "coalesce(sum(status = 'failed'), 0), coalesce(sum(status = 'sent'), 0), "
            "(SELECT count(*) FROM (SELECT key FROM sent GROUP BY key HAVING count(*) > 1)) FROM calls"
        )
        return LedgerSummary(*totals[0])

    def _complete(self, write: sqlite3.Connection, call: int, status: str, error: str | None) -> None:
        started = self._started.pop(call, None)
        seconds = None if started is None else time.perf_counter() - started
        changed = write.execute(
            "UPDATE calls SET status = ?, seconds = ?, error = ? WHERE id = ? AND status = 'sent'",
            (status, seconds, error, call),
        ).rowcount
        if changed != 1:
            raise FedHelpError(f"call {call} of the ledger {self.path} is unknown or complete already")

    def _unpack(self, key: str, payload: bytes, dtype: str, shape: str, digest: str) -> NDArray[Any]:
        if hashlib.sha256(payload).hexdigest() == digest:
            with suppress(KeyError, ValueError, TypeError):  # no such dtype, or a shape of another size
                return np.frombuffer(payload, dtype=PAYLOAD_DTYPES[dtype]).reshape(_shape(shape))
        raise FedHelpError(
            f"the answer {key} in the ledger {self.path} is damaged: restore the file from a copy, "
            "or acquire into a new one"
        )

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise FedHelpError(f"the ledger {self.path} cannot be read: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self.readonly:
            raise FedHelpError(f"the ledger {self.path} was opened for reading only")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise FedHelpError(f"the ledger {self.path} cannot be written: {error}") from error


@lru_cache
def _shape(text: str) -> tuple[int, ...]:
    return tuple(json.loads(text))


def _pack(answer: NDArray[Any]) -> tuple[bytes, str, str, str]:
    """Return payload, dtype, shape and hash; little-endian on every machine."""
    name = answer.dtype.name
    if name not in PAYLOAD_DTYPES:
        raise FedHelpError(f"an answer of {name} values cannot be stored: the ledger keeps float32 and float16")
    payload = np.ascontiguousarray(answer, dtype=PAYLOAD_DTYPES[name]).tobytes()
    return payload, name, json.dumps(list(answer.shape)), hashlib.sha256(payload).hexdigest()
