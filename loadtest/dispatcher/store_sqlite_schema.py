"""The file of the embedded store: its tables, how it is opened, and what its errors mean.

A delivery waits to be started exactly while ``ready_at`` is not NULL: it is NULL while the delivery is held and
after it is settled. The indexes of what waits are therefore as small as the backlog, whatever the history.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from loadtest.dispatcher.store import StoreError, StoreUnavailableError

APPLICATION = 0x686C6162
"""``hlab``: by it a file of ours is told from any other SQLite database."""

HEADER = b"SQLite format 3\0"
"""How each SQLite file begins."""

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING."""

FIRST = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE types (position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

CREATE TABLE endpoints (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    spec TEXT NOT NULL,
    health TEXT NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX endpoints_id ON endpoints (id) WHERE removed = 0;

CREATE TABLE masks (
    word INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    bits INTEGER NOT NULL,
    PRIMARY KEY (word, endpoint)
) WITHOUT ROWID;

CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    occurred INTEGER NOT NULL,
    created INTEGER NOT NULL,
    data BLOB NOT NULL,
    object_type TEXT NOT NULL,
    object_id TEXT NOT NULL,
    lonely INTEGER NOT NULL
);
CREATE INDEX events_lonely ON events (created) WHERE lonely = 1;

CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    event INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    stream TEXT,
    held INTEGER NOT NULL,
    released INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL,
    cause INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due INTEGER NOT NULL,
    ready_at INTEGER,
    gap INTEGER NOT NULL,
    born INTEGER NOT NULL,
    entered INTEGER NOT NULL,
    created INTEGER NOT NULL,
    delivered INTEGER,
    settled INTEGER
);
CREATE UNIQUE INDEX deliveries_event ON deliveries (event, endpoint);
CREATE INDEX deliveries_endpoint ON deliveries (endpoint);
CREATE INDEX deliveries_ready ON deliveries (endpoint, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX deliveries_tier ON deliveries (endpoint, attempts, entered) WHERE ready_at IS NOT NULL;
CREATE INDEX deliveries_stream ON deliveries (endpoint, stream, held, attempts)
    WHERE settled IS NULL AND stream IS NOT NULL;
CREATE INDEX deliveries_settled ON deliveries (settled) WHERE settled IS NOT NULL;
CREATE INDEX deliveries_lost ON deliveries (state) WHERE state > 2;

CREATE TABLE log (
    cursor INTEGER PRIMARY KEY,
    delivery INTEGER NOT NULL,
    attempt_number INTEGER,
    tier INTEGER,
    due INTEGER,
    started INTEGER,
    finished INTEGER,
    outcome INTEGER,
    status INTEGER,
    wait_cause INTEGER,
    answer BLOB,
    error TEXT
);
CREATE INDEX log_delivery ON log (delivery);

CREATE TABLE objects (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    data BLOB NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (type, id)
);
"""

SECOND = """
-- How many deliveries there are by state and, of those that wait, by the number of their next attempt (else 0).
CREATE TABLE totals (
    state INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (state, tier)
) WITHOUT ROWID;
INSERT INTO totals SELECT state, iif(state = 0, attempts + 1, 0), count(*) FROM deliveries GROUP BY 1, 2;

-- Lists by state, or by endpoint and state, go from new to old, however many are in other states.
DROP INDEX deliveries_lost;
CREATE INDEX deliveries_state ON deliveries (state);
DROP INDEX deliveries_endpoint;
CREATE INDEX deliveries_endpoint ON deliveries (endpoint, state);
"""

THIRD = """
-- Lists by type go from new to old too, alone or with a state, of one endpoint or of all, however few there are.
ALTER TABLE deliveries ADD COLUMN type TEXT NOT NULL DEFAULT '';
UPDATE deliveries SET type = (SELECT type FROM events WHERE events.number = deliveries.event);
CREATE INDEX deliveries_type ON deliveries (type, state);
CREATE INDEX deliveries_endpoint_type ON deliveries (endpoint, type, state);
"""

MIGRATIONS = (FIRST, SECOND, THIRD)
"""What leads from each version of the file to the next; a released one is never edited."""

WRITER_CACHE_KIB = 64 * 1024
CHECKPOINT_PAGES = 4000
WAL_BYTES_KEPT = 64 * 1024 * 1024
BUSY_SECONDS = 5.0


def open_writer(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection for one writer thread, with the schema up to date.

    Raises:
        StoreError: the file is none of ours, is newer than this program, or cannot be opened.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(f"SQLite is {sqlite3.sqlite_version}; it must be at least 3.35: use a newer Python")
    check_header(path)
    try:
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise translated(error, path) from error
    try:
        check_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        migrate(connection)
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, path) from error
    except StoreError:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection for one other thread."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def check_header(path: Path) -> None:
    """Refuse a file of something else; SQLite would take one of a few bytes for a new database of its own."""
    try:
        with path.open("rb") as file:
            start = file.read(len(HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be read: {error.strerror}") from error
    if start and start != HEADER:
        raise BrokenError(f"{path} {BROKEN[sqlite3.SQLITE_NOTADB]}")


def check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse the database of another program, and one of a later version of this one."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION:
        raise StoreError(f"{path} is the database of another program; give the store a file of its own")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} has version {version}, this program knows up to {len(MIGRATIONS)}; use a newer hooklab"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to the last version, each step in a transaction of its own."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {APPLICATION};"
            f" PRAGMA user_version = {number}; COMMIT;"
        )


UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_FULL: "has no room left on its disk",
    sqlite3.SQLITE_IOERR: "cannot be read or written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; its folder must exist and be writable",
    sqlite3.SQLITE_READONLY: "cannot be written; its folder and file must be writable",
    sqlite3.SQLITE_PERM: "may not be opened by this user",
    sqlite3.SQLITE_NOMEM: "needs more memory than there is",
}
"""Primary result codes after which the same call may succeed later."""

BROKEN = {
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a copy, or move it away to begin anew",
    sqlite3.SQLITE_NOTADB: "is no SQLite database; give the store a file of its own",
}
"""Primary result codes after which nothing will succeed."""


class BrokenError(StoreError):
    """The file is damaged: nothing more can be done with it."""


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """What an error of SQLite means to a caller of the store."""
    # Errors of the module itself, such as a value that cannot be bound, carry no code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in UNAVAILABLE:
        return StoreUnavailableError(f"{path} {UNAVAILABLE[code]} ({error})")
    if code in BROKEN:
        return BrokenError(f"{path} {BROKEN[code]} ({error})")
    return StoreError(f"{path}: {error}")
