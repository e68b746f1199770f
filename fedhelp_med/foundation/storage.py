"""The SQLite file behind the ledger: its schema, and how it is opened."""

import sqlite3
from pathlib import Path

from fedhelp_med.common.errors import InputError

APPLICATION_ID = 0x46484C44  # "FHLD" in the file's header tells a ledger from any other SQLite file
SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0  # how long a process waits for another one's commit
SCHEMA = (
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


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):  # another process may have been faster
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise InputError(f"{path} is not a ledger: it is empty or a database of another program; name another file")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"the ledger {path} has schema version {version}, this program reads {SCHEMA_VERSION}: "
            "use the version of the program that wrote it"
        )
