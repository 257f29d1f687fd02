"""The tables, and the migrations that create them.

Times are milliseconds since 1970. Rows that belong to a session refer to its `pk`, which is never reused: deleting its row
in `sessions` deletes the session, and its other rows can be removed later (`orphans`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cmdc_gateway.store.errors import StoreUnavailable

APPLICATION_ID = int.from_bytes(b"CMGW")
"""Marks our files among all those that SQLite may open."""

_DEVELOPMENT_ID = int.from_bytes(b"CMDC")
"""Marks the files of development versions before 0.1.0."""

_VERSION_1 = """
CREATE TABLE sessions (
    pk                INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant            TEXT    NOT NULL,
    session_id        TEXT    NOT NULL,
    epoch             TEXT    NOT NULL,
    created_at        INTEGER NOT NULL,
    state             TEXT    NOT NULL,
    turns             INTEGER NOT NULL,
    tool_calls        INTEGER NOT NULL,
    prompts           INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_usd          REAL    NOT NULL,
    delivered_seq     INTEGER NOT NULL,
    trimmed_seq       INTEGER NOT NULL DEFAULT 0,  -- the log begins after this seq
    UNIQUE (tenant, session_id)
) STRICT;
CREATE INDEX sessions_by_age ON sessions (tenant, created_at, session_id);

-- Apart from `sessions`, whose rows are rewritten with every step of a run: settings may be long.
CREATE TABLE settings (
    session INTEGER PRIMARY KEY,
    data    BLOB NOT NULL
) STRICT;

-- A row holds consecutive events of one session; `last_seq` is the seq of the last one.
CREATE TABLE events (
    session  INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    packed   BLOB    NOT NULL,
    PRIMARY KEY (session, last_seq)
) STRICT, WITHOUT ROWID;

-- Committed events, of any sessions, that may not be in `events` yet.
CREATE TABLE journal (
    id     INTEGER PRIMARY KEY,
    packed BLOB NOT NULL
) STRICT;

CREATE TABLE messages (
    session  INTEGER NOT NULL,
    position INTEGER NOT NULL,  -- 0, 1, 2 …
    data     BLOB    NOT NULL,  -- JSON, as in the response to GET …/messages
    UNIQUE (session, position)
) STRICT;

CREATE TABLE requests (
    session           INTEGER NOT NULL,
    request_id        TEXT    NOT NULL,
    position          INTEGER NOT NULL,
    key_id            TEXT    NOT NULL,
    text              TEXT    NOT NULL,
    status            TEXT    NOT NULL,
    first_seq         INTEGER NOT NULL,
    last_seq          INTEGER NOT NULL,
    steps             INTEGER NOT NULL,
    calls             INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_usd          REAL    NOT NULL,
    UNIQUE (session, request_id),
    UNIQUE (session, position)
) STRICT;
CREATE INDEX requests_open ON requests (session, position) WHERE status <> 'done';

CREATE TABLE approvals (
    session      INTEGER NOT NULL,
    approval_id  TEXT    NOT NULL,
    request_id   TEXT    NOT NULL,
    call_id      TEXT    NOT NULL,
    tool_name    TEXT    NOT NULL,
    args         BLOB    NOT NULL,
    digest       TEXT    NOT NULL,
    hint         TEXT    NOT NULL,
    requested_at INTEGER NOT NULL,
    expires_at   INTEGER,
    status       TEXT    NOT NULL,
    decision     BLOB    NOT NULL,
    UNIQUE (session, approval_id)
) STRICT;
CREATE INDEX approvals_pending ON approvals (session) WHERE status = 'pending';

CREATE TABLE questions (
    session    INTEGER NOT NULL,
    ref        TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    call_id    TEXT    NOT NULL,
    question   TEXT    NOT NULL,
    options    BLOB,              -- a JSON array of strings, or NULL
    status     TEXT    NOT NULL,
    response   TEXT    NOT NULL,
    UNIQUE (session, ref)
) STRICT;
CREATE INDEX questions_pending ON questions (session) WHERE status = 'pending';

CREATE TABLE tools (
    session    INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    definition BLOB    NOT NULL,
    UNIQUE (session, name)
) STRICT;

-- AUTOINCREMENT keeps SQLite from reusing a fencing token after its row was deleted.
CREATE TABLE leases (
    token   INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL UNIQUE,
    owner   TEXT    NOT NULL
) STRICT;

-- Deleted sessions that still have rows in other tables.
CREATE TABLE orphans (
    session INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE usage (
    tenant            TEXT    NOT NULL,
    key_id            TEXT    NOT NULL,
    day               TEXT    NOT NULL,
    prompts           INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_usd          REAL    NOT NULL,
    PRIMARY KEY (tenant, key_id, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE responses (
    tenant          TEXT    NOT NULL,
    route           TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     TEXT    NOT NULL,
    status          INTEGER NOT NULL,
    body            BLOB    NOT NULL,
    at              INTEGER NOT NULL,
    UNIQUE (tenant, route, idempotency_key)
) STRICT;
CREATE INDEX responses_by_age ON responses (at);

-- The triggers keep even faulty SQL of ours from changing the audit log.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    detail     BLOB    NOT NULL   -- a JSON object
) STRICT;
CREATE TRIGGER audit_is_never_updated BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

-- One row, which the health check updates to find out whether writes succeed.
CREATE TABLE health (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;
INSERT INTO health VALUES (1, 0);
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
"""Migration n turns a file of version n - 1 into one of version n; an empty file has version 0."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the current version, one transaction per migration.

    Raises:
        StoreUnavailable: the file belongs to another program, or to a development or newer version of this one.
    """
    version = _version(connection, path)
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        marks = f"PRAGMA user_version = {number}; PRAGMA application_id = {APPLICATION_ID}"
        connection.executescript(f"BEGIN IMMEDIATE; {script}; {marks}; COMMIT")


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreUnavailable unless the file is a store of the current version."""
    version = _version(connection, path)
    if version < len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path} was written by an older version of the gateway (schema {version}; this version needs "
            f"{len(MIGRATIONS)}); start the gateway once to migrate it"
        )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version, application_id = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
    if application_id == _DEVELOPMENT_ID:
        raise StoreUnavailable(
            f"{path} was written by a development version of the gateway and cannot be migrated; "
            "move it away, or name another file, and start again"
        )
    if application_id != APPLICATION_ID and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise StoreUnavailable(f"{path} is a database of another program; name another file")
    if version > len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path} was written by a newer version of the gateway (schema {version}; this version knows "
            f"{len(MIGRATIONS)}); use that version, or name another file"
        )
    return version


_MARKS = ("user_version", "application_id")
