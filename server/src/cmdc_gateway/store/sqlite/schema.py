"""The tables, and how a file of an older version becomes one of this version.

Times are milliseconds since 1970. What belongs to a session carries its `pk`, which is never given out twice: so a
session is gone when its row in `sessions` is, and its other rows can be removed at leisure (`leavings`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cmdc_gateway.store.store import StoreUnavailable

APPLICATION_ID = int.from_bytes(b"CMDC")
"""Tells our files from those of other programs that use SQLite too."""

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
    served            INTEGER NOT NULL,
    trimmed           INTEGER NOT NULL DEFAULT 0,  -- events up to this seq are not of the log any more
    UNIQUE (tenant, session_id)
) STRICT;
CREATE INDEX sessions_by_age ON sessions (tenant, created_at, session_id);

-- Apart from the session's row, which is written again at every step: these may be long.
CREATE TABLE settings (
    session INTEGER PRIMARY KEY,
    data    BLOB NOT NULL
) STRICT;

CREATE TABLE events (
    session INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    name    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    data    BLOB    NOT NULL,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    session INTEGER NOT NULL,
    n       INTEGER NOT NULL,  -- from 0
    data    BLOB    NOT NULL,  -- JSON, as GET …/messages shows it
    UNIQUE (session, n)
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

-- Who may write a session. AUTOINCREMENT makes the token one that was never used before, whatever was deleted since.
CREATE TABLE leases (
    token   INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL UNIQUE,
    owner   TEXT    NOT NULL
) STRICT;

-- Sessions that were deleted and still have rows in other tables.
CREATE TABLE leavings (
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

CREATE TABLE answers (
    tenant          TEXT    NOT NULL,
    route           TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     TEXT    NOT NULL,
    status          INTEGER NOT NULL,
    body            BLOB    NOT NULL,
    at              INTEGER NOT NULL,
    UNIQUE (tenant, route, idempotency_key)
) STRICT;
CREATE INDEX answers_by_age ON answers (at);

-- Written to find out whether writing works.
CREATE TABLE pulse (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    beat INTEGER NOT NULL
) STRICT;
INSERT INTO pulse VALUES (1, 0);
"""

_VERSION_2 = """
-- The audit trail. Nobody shortens or changes it, not even by a mistake of ours.
CREATE TABLE trail (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    detail     BLOB    NOT NULL   -- a JSON object
) STRICT;
CREATE TRIGGER trail_is_not_changed BEFORE UPDATE ON trail
BEGIN SELECT raise(ABORT, 'the audit trail is only ever added to'); END;
CREATE TRIGGER trail_is_not_shortened BEFORE DELETE ON trail
BEGIN SELECT raise(ABORT, 'the audit trail is only ever added to'); END;
"""

_VERSION_3 = """
-- What was added to logs and may not be in `events` yet: many events of many sessions in a row, packed.
CREATE TABLE journal (
    n    INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- A row may have several events: then `seq` and `at` are of the last, `name` is empty, and `data` has all of them packed.
ALTER TABLE events ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)
"""Number n makes a file of version n out of one of version n - 1; an empty file is version 0."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this version, one transaction a step.

    Raises:
        StoreDown: the file is another program's, or was written by a newer version of this one.
    """
    version = _version(connection, path)
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        marks = f"PRAGMA user_version = {number}; PRAGMA application_id = {APPLICATION_ID}"
        connection.executescript(f"BEGIN IMMEDIATE; {script}; {marks}; COMMIT")


def must_be_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreDown if the file is another program's, or of another version than this one, and so not to be read."""
    version = _version(connection, path)
    if version < len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path} was written by an older version of the gateway (schema {version}; this one knows {len(MIGRATIONS)}): "
            "start the gateway once, and it will be brought up to date"
        )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version, application_id = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
    if application_id != APPLICATION_ID and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise StoreUnavailable(f"{path} is a database of another program")
    if version > len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path} was written by a newer version of the gateway (schema {version}; this one knows {len(MIGRATIONS)})"
        )
    return version


_MARKS = ("user_version", "application_id")
