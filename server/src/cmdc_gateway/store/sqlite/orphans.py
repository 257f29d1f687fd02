"""Removing what deleted sessions left, a little at a time, so that nobody waits behind a million events."""

from __future__ import annotations

from cmdc_gateway.store.sqlite.journal import WritingConnection

_ROWS = 100

_REMOVE = "DELETE FROM {0} WHERE session = ?1 AND {1} IN (SELECT {1} FROM {0} WHERE session = ?1 LIMIT ?2)"

# For each table that has rows of a session, and what tells these rows from one another.
_REMOVALS = [
    _REMOVE.format(table, key)
    for table, key in (
        ("settings", "session"),
        ("leases", "token"),
        ("tools", "rowid"),
        ("approvals", "rowid"),
        ("questions", "rowid"),
        ("requests", "rowid"),
        ("messages", "rowid"),
        ("events", "seq"),
    )
]


def remove_orphans(connection: WritingConnection) -> bool:
    """Remove up to 100 rows in a transaction of their own; return whether there may be more."""
    if not connection.may_have_leavings:  # the writer asks whenever it has nothing else to do
        return False
    found = connection.execute("SELECT session FROM leavings LIMIT 1").fetchone()
    if found is None:
        connection.may_have_leavings = False
        return False
    (session,) = found
    connection.execute("BEGIN IMMEDIATE")
    left = _ROWS
    for removal in _REMOVALS:
        left -= connection.execute(removal, (session, left)).rowcount
        if left == 0:
            break
    else:
        connection.execute("DELETE FROM leavings WHERE session = ?", (session,))
    connection.execute("COMMIT")
    return True
