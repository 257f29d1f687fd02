"""Which store an address names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.sqlite.audit import read_audit
from cmdc_gateway.store.store import AuditRow, Store

_FORMS = "memory:, sqlite:///relative.db or sqlite:////absolute.db, the latter two with ?durability=process or =disk"


def store_from_url(url: str) -> Store:
    """The store at an address, not open yet.

    Raises:
        ValueError: the address is none of `memory:`, `sqlite:///relative.db` and `sqlite:////absolute.db`, where a file
            may be followed by `?durability=process` (the default) or `?durability=disk` (DUR-4).
    """
    if url == "memory:":
        return MemoryStore()
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment or not path or not url.startswith("sqlite:///"):
        raise ValueError(f"{url!r} is no address of a store: write {_FORMS}")
    return SqliteStore(Path(path), durability=_durability(url, parts.query))


def audit_from_url(url: str) -> Iterator[tuple[int, AuditRow]]:
    """The audit trail of the store at an address, which a gateway may be using.

    Raises:
        ValueError: the address is none, or of a store that only its own process can read.
        StoreDown: it cannot be read.
    """
    if url == "memory:":
        raise ValueError(f"{url} keeps its audit trail in the memory of its gateway")
    store = store_from_url(url)
    assert isinstance(store, SqliteStore), "the other kind there is"
    return read_audit(store.path)


def _durability(url: str, query: str) -> Literal["process", "disk"]:
    match parse_qsl(query, keep_blank_values=True):
        case []:
            return "process"
        case [("durability", "process" | "disk" as durability)]:
            return durability
        case _:
            raise ValueError(
                f"{url!r} is no address of a store: after ? only durability=process or =disk is understood"
            )
