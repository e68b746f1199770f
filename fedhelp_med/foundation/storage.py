"""The SQLite file behind the ledger: its schema, and how it is opened."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedhelp_med.common.errors import FedHelpError, InputError

APPLICATION_ID = 0x46484C44  # "FHLD" in the file's header tells a ledger from any other SQLite file
SCHEMA_VERSION = 2
BUSY_SECONDS = 60.0  # how long a process waits for another one's commit
SCHEMA_1 = (
    """CREATE TABLE models (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, description TEXT NOT NULL,
        UNIQUE (name, version))""",
    # Every call, written before it is sent; bytes and images are those of the request.
    """CREATE TABLE calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT, model INTEGER NOT NULL REFERENCES models, time TEXT NOT NULL,
        images INTEGER NOT NULL, bytes INTEGER NOT NULL, seconds REAL,
        status TEXT NOT NULL CHECK (status IN ('sent', 'done', 'failed')), error TEXT)""",
    # The images of each call: a key in two calls was sent twice.
    """CREATE TABLE sent (
        key TEXT NOT NULL, call INTEGER NOT NULL REFERENCES calls, PRIMARY KEY (key, call)) WITHOUT ROWID""",
    "CREATE INDEX sent_by_call ON sent (call)",
    """CREATE TABLE answers (
        key TEXT PRIMARY KEY, model INTEGER NOT NULL REFERENCES models, payload BLOB NOT NULL,
        dtype TEXT NOT NULL, shape TEXT NOT NULL, sha256 TEXT NOT NULL)""",
    # A convenience that may be emptied at any time: the keys of files that have not changed.
    """CREATE TABLE images (
        path TEXT NOT NULL, model INTEGER NOT NULL REFERENCES models, stamp TEXT NOT NULL, key TEXT NOT NULL,
        PRIMARY KEY (path, model)) WITHOUT ROWID""",
    "CREATE TRIGGER calls_stay BEFORE DELETE ON calls BEGIN SELECT RAISE(ABORT, 'calls are kept for ever'); END",
    "CREATE TRIGGER sent_stay BEFORE DELETE ON sent BEGIN SELECT RAISE(ABORT, 'calls are kept for ever'); END",
    """CREATE TRIGGER calls_end_once BEFORE UPDATE ON calls WHEN OLD.status <> 'sent'
        BEGIN SELECT RAISE(ABORT, 'a call is completed once'); END""",
)
# What version 2 adds. A ledger of version 1 gets it when it is first written to: answers that were paid for are kept.
TABLES_2 = (
    # Every request on the way to an answer, repetitions included; bytes are those on the wire.
    """CREATE TABLE attempts (
        id INTEGER PRIMARY KEY, call INTEGER REFERENCES calls, time TEXT NOT NULL, number INTEGER NOT NULL,
        images INTEGER NOT NULL, sent INTEGER NOT NULL, received INTEGER NOT NULL, seconds REAL NOT NULL,
        status TEXT NOT NULL)""",
    # Who waits for an answer, and until when that is believed without a sign of life.
    "CREATE TABLE leases (call INTEGER PRIMARY KEY REFERENCES calls, holder TEXT NOT NULL, expires REAL NOT NULL)",
    # Answers that were acquired elsewhere: from which file, and how many were new.
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY, time TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
        images INTEGER NOT NULL)""",
)
TRIGGERS_2 = tuple(
    f"CREATE TRIGGER {table}_stay_{event.lower()} BEFORE {event} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} are kept for ever'); END"
    for table in ("attempts", "imports")
    for event in ("UPDATE", "DELETE")
)


class Storage:
    """An open ledger's file: queries and transactions.

    Args:
        path: the file; it is made if it does not exist.
        readonly: refuse to write, and to make a file.

    Raises:
        InputError: if the file is no ledger, one of another schema version, or absent with ``readonly``.
    """

    def __init__(self, path: str | Path, readonly: bool = False) -> None:
        self.path = Path(path)
        self.readonly = readonly
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

    def iterate(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query, which are tuples, one by one.

        Raises:
            FedHelpError: if the file cannot be read.
        """
        try:
            for row in self._connection.execute(query, values):  # noqa: UP028 (would close the cursor, perhaps too late)
                yield row
        except sqlite3.Error as error:
            raise FedHelpError(f"the ledger {self.path} cannot be read: {error}") from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            FedHelpError: if the file cannot be read.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise FedHelpError(f"the ledger {self.path} cannot be read: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing, while no other process writes.

        Raises:
            FedHelpError: if the ledger was opened for reading, or the file cannot be written.
        """
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


def connect(path: Path, readonly: bool) -> sqlite3.Connection:
    """Open a ledger's file, in autocommit mode; without ``readonly`` it is made if it does not exist.

    Raises:
        InputError: if the file is no ledger, one of another schema version, cannot be opened, or is absent with
            ``readonly``.
    """
    if path.is_dir():
        raise InputError(f"the ledger {path} is a folder: name a file")
    if readonly and not path.exists():
        raise InputError(f"the ledger {path} does not exist: make it with `fedhelp foundation acquire`")
    try:
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _open(path, "mode=rwc", create=True)
        try:
            connection = _open(path, "mode=rw")
        except sqlite3.OperationalError:
            # A folder that may not be written has no room for WAL's shared memory. Where no log waits to be
            # read either, the file is complete by itself.
            if path.with_name(path.name + "-wal").exists():
                raise
            connection = _open(path, "mode=ro&immutable=1")
        if _version(connection) == 1:
            for statement in TABLES_2:  # empty, of this connection only
                connection.execute(
                    statement.replace("CREATE TABLE", "CREATE TEMP TABLE").replace(" REFERENCES calls", "")
                )
        connection.execute("PRAGMA query_only = ON")
        return connection
    except sqlite3.OperationalError as error:
        raise InputError(f"the ledger {path} cannot be opened ({error}): check the path and its permissions") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is not a ledger, or is damaged ({error}): name another file") from error
    except OSError as error:
        raise InputError(f"the ledger {path} cannot be made ({error.strerror}): name another place") from error


def _open(path: Path, mode: str, create: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    try:
        if create and _is_empty(connection):
            _create(connection)
        _check(path, connection)
        if create and _version(connection) == 1:
            _create(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not any(
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables that are not there yet."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):  # another process may have been faster
        for statement in SCHEMA_1:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    if _version(connection) < SCHEMA_VERSION:
        for statement in (*TABLES_2, *TRIGGERS_2):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise InputError(f"{path} is not a ledger: it is empty or a database of another program; name another file")
    version = _version(connection)
    if not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"the ledger {path} has schema version {version}, this program reads 1 to {SCHEMA_VERSION}: "
            "use the version of the program that wrote it"
        )
