"""What `cmdc-gateway` does beside serving: making and listing keys, and showing the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cmdc_gateway.store.store import AuditRow
from cmdc_gateway.tenancy.keys import KeyRing, new_key

_DIGEST_SHOWN = 12
_COLUMNS = ("when", "tenant", "session", "who", "what", "on", "digest", "more")


def key_new(tenant: str) -> Iterator[str]:
    """A new key, and what to configure for it."""
    made = new_key()
    (caller,) = KeyRing({made.stored: tenant}).principals()
    yield f"key      {made.key}"
    yield f"keyId    {caller.key_id}"
    yield "Give the key to its user. The server needs only its hash, in the file that GATEWAY_CONFIG names:"
    yield ""
    yield "[api_keys]"
    yield f"{_quoted(made.stored)} = {_quoted(tenant)}"


def key_list(tenants: Mapping[str, str]) -> Iterator[str]:
    """The keyId and the tenant of each key that is configured; never a key, nor the hash of one."""
    callers = KeyRing(tenants).principals()
    return _table(("keyId", "tenant"), [(caller.key_id, caller.tenant) for caller in callers])


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which rows of the audit trail: each condition that is given has to hold. `since` is in ms since 1970."""

    tenant: str | None = None
    session_id: str | None = None
    key_id: str | None = None
    since: int = 0

    def wants(self, row: AuditRow) -> bool:
        return (
            row.at >= self.since
            and self.tenant in (None, row.tenant)
            and self.session_id in (None, row.session_id)
            and self.key_id in (None, row.key_id)
        )


def audit_json(rows: Iterable[tuple[int, AuditRow]]) -> Iterator[str]:
    """Each row as one line of JSON, with everything it has."""
    for n, row in rows:
        fields: dict[str, Any] = {
            "n": n,
            "at": row.at,
            "tenant": row.tenant,
            "sessionId": row.session_id,
            "keyId": row.key_id,
            "action": row.action,
            "subject": row.subject,
            "digest": row.digest,
            "detail": json.loads(row.detail),
        }
        yield json.dumps(fields)


def audit_table(rows: Iterable[tuple[int, AuditRow]]) -> Iterator[str]:
    """The rows for people: digests by their beginning, and nothing that a terminal would take for a command."""
    return _table(_COLUMNS, [_cells(row) for _, row in rows])


def moment(text: str) -> int:
    """Ms since 1970 of a date or time in ISO 8601, in UTC unless it says otherwise. Raises ValueError."""
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _cells(row: AuditRow) -> tuple[str, ...]:
    at = datetime.fromtimestamp(row.at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    detail: dict[str, Any] = json.loads(row.detail)
    more = " ".join(f"{name}={_plain(value)}" for name, value in detail.items())
    return (
        at,
        row.tenant or "-",
        row.session_id or "-",
        row.key_id or "the server",
        row.action,
        row.subject or "-",
        row.digest[:_DIGEST_SHOWN] or "-",
        more,
    )


def _plain(value: Any) -> str:
    return ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    shown = [head, *([_harmless(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _harmless(cell: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in cell)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string of printable characters is one of TOML too
