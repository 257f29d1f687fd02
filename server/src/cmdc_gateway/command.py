"""The operator commands of `cmdc-gateway`: create and list API keys, print the audit log."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cmdc_gateway.store.rows import AuditRow
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.keys import KeyRing, new_key

_DIGEST_LENGTH = 12
_COLUMNS = ("when", "tenant", "session", "who", "what", "on", "digest", "more")
_PAGE_ROWS = 1000


def key_new(tenant: str) -> Iterator[str]:
    """Create a key; print it, its keyId, and the configuration that enables it."""
    created = new_key()
    (principal,) = KeyRing({created.stored: tenant}).principals()
    yield f"key      {created.key}"
    yield f"keyId    {principal.key_id}"
    yield "Give the key to its user. The server needs only its hash, in the file that GATEWAY_CONFIG names:"
    yield ""
    yield "[api_keys]"
    yield f"{_toml_string(created.stored)} = {_toml_string(tenant)}"


def key_list(tenants: Mapping[str, str]) -> Iterator[str]:
    """Print the keyId and the tenant of each configured key, but neither the key nor its hash."""
    principals = KeyRing(tenants).principals()
    return _table(("keyId", "tenant"), [(principal.key_id, principal.tenant) for principal in principals])


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Selects rows of the audit log: those that match every condition, and with `last` only the last of them.

    `since` is in ms since 1970. A condition that is None matches every row.
    """

    tenant: str | None = None
    session_id: str | None = None
    key_id: str | None = None
    since: int = 0
    last: int | None = None

    def matches(self, row: AuditRow) -> bool:
        """Whether a row meets every condition but `last`."""
        return (
            row.at >= self.since
            and self.tenant in (None, row.tenant)
            and self.session_id in (None, row.session_id)
            and self.key_id in (None, row.key_id)
        )


async def select_audit(store: Store, query: AuditQuery) -> AsyncGenerator[tuple[int, AuditRow]]:
    """The rows of the audit log that the query selects, each with its number.

    Opens the store read-only, so a gateway may have it open. Raises StoreUnavailable.
    """
    await store.open(read_only=True)
    try:
        rows = _matching(store, query)
        if query.last is not None:
            last: deque[tuple[int, AuditRow]] = deque(maxlen=max(0, query.last))
            async for row in rows:
                last.append(row)
            for row in last:
                yield row
        else:
            async for row in rows:
                yield row
    finally:
        await store.close()


async def _matching(store: Store, query: AuditQuery) -> AsyncGenerator[tuple[int, AuditRow]]:
    after = 0
    while page := await store.audit(after, _PAGE_ROWS):
        for number, row in page:
            if query.matches(row):
                yield number, row
        after, _ = page[-1]


def audit_json(number: int, row: AuditRow) -> str:
    """A row as a line of JSON with all of its members."""
    members: dict[str, Any] = {
        "n": number,
        "at": row.at,
        "tenant": row.tenant,
        "sessionId": row.session_id,
        "keyId": row.key_id,
        "action": row.action,
        "subject": row.subject,
        "digest": row.digest,
        "detail": json.loads(row.detail),
    }
    return json.dumps(members)


def audit_table(rows: Iterable[AuditRow]) -> Iterator[str]:
    """The rows as a table. Digests are abbreviated, and characters that could control the terminal are replaced."""
    return _table(_COLUMNS, [_cells(row) for row in rows])


def parse_time(text: str) -> int:
    """Ms since 1970 of a date or time in ISO 8601, in UTC unless it has an offset. Raises ValueError."""
    time = datetime.fromisoformat(text)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


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
        row.digest[:_DIGEST_LENGTH] or "-",
        more,
    )


def _plain(value: Any) -> str:
    return ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    lines = [header, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _printable(cell: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in cell)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string of printable characters is a TOML string too
