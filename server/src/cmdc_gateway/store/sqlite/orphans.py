"""Deletes the rows that deleted sessions left, a few at a time, so that no commit waits behind a million events."""

from __future__ import annotations

from cmdc_gateway.store.sqlite.journal import WritingConnection

_ROWS_PER_CALL = 100

_DELETE = "DELETE FROM {0} WHERE session = ?1 AND {1} IN (SELECT {1} FROM {0} WHERE session = ?1 LIMIT ?2)"

# Each table with rows of a session, and the column that identifies one of them within the session.
_DELETES = [
    _DELETE.format(table, column)
    for table, column in (
        ("settings", "session"),
        ("leases", "token"),
        ("tools", "rowid"),
        ("approvals", "rowid"),
        ("questions", "rowid"),
        ("requests", "rowid"),
        ("messages", "rowid"),
        ("events", "last_seq"),
    )
]


def delete_orphans(connection: WritingConnection) -> bool:
    """Delete up to 100 rows in a transaction of their own; return whether there may be more."""
    if not connection.may_have_orphans:  # spares an idle writer the query
        return False
    found = connection.execute("SELECT session FROM orphans LIMIT 1").fetchone()
    if found is None:
        connection.may_have_orphans = False
        return False
    (session,) = found
    connection.execute("BEGIN IMMEDIATE")
    remaining = _ROWS_PER_CALL
    for delete in _DELETES:
        remaining -= connection.execute(delete, (session, remaining)).rowcount
        if remaining == 0:
            break
    else:
        connection.execute("DELETE FROM orphans WHERE session = ?", (session,))
    connection.execute("COMMIT")
    return True
