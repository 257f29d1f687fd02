"""The lease of each session. A row's id is the fencing token."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from cmdc_gateway.store.errors import LeaseLost, OwnedElsewhere
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.store import Lease


def acquire(connection: sqlite3.Connection, key: SessionKey, owner: str, live_owners: Collection[str]) -> Lease:
    """Lease the session to the owner, unless another live owner holds it. Raises KeyError or OwnedElsewhere."""
    found = connection.execute(
        "SELECT pk, owner FROM sessions LEFT JOIN leases ON session = pk WHERE tenant = ? AND session_id = ?",
        (key.tenant, key.session_id),
    ).fetchone()
    if found is None:
        raise KeyError(key)
    pk, holder = found
    if holder != owner and holder in live_owners:
        raise OwnedElsewhere(f"session {key.session_id!r} is leased to {holder}")
    token = connection.execute("REPLACE INTO leases (session, owner) VALUES (?, ?)", (pk, owner)).lastrowid
    assert token is not None
    return Lease(key, token)


def release(connection: sqlite3.Connection, lease: Lease) -> None:
    """End the lease, if it is valid."""
    connection.execute(
        "DELETE FROM leases WHERE token = ? AND session = (SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?)",
        (lease.token, lease.key.tenant, lease.key.session_id),
    )


def release_all(connection: sqlite3.Connection) -> None:
    """End all leases. Their tokens are never reused."""
    connection.execute("DELETE FROM leases")


def check(connection: sqlite3.Connection, lease: Lease) -> int:
    """The `pk` of the leased session. Raises LeaseLost if the lease is stale."""
    found = connection.execute(
        "SELECT pk FROM sessions JOIN leases ON session = pk WHERE tenant = ? AND session_id = ? AND token = ?",
        (lease.key.tenant, lease.key.session_id, lease.token),
    ).fetchone()
    if found is None:
        raise LeaseLost(f"the lease of session {lease.key.session_id!r} is stale")
    return found[0]
