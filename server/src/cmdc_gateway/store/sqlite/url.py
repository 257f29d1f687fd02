"""URLs of SQLite stores: `sqlite:///relative.db` and `sqlite:////absolute.db`, with an optional `durability` (DUR-4)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote

from cmdc_gateway.store.errors import InvalidStoreURL
from cmdc_gateway.store.sqlite.store import SqliteStore

_PREFIX = "sqlite:///"


def create(url: str) -> SqliteStore:
    """Create the store at a URL; it is not open yet. Raises InvalidStoreURL."""
    location, _, query = url.removeprefix(_PREFIX).partition("?")
    if not url.startswith(_PREFIX) or not location or "#" in url:
        raise InvalidStoreURL(url, "write sqlite:///relative.db or sqlite:////absolute.db")
    return SqliteStore(Path(unquote(location)), durability=_durability(url, query))


def _durability(url: str, query: str) -> Literal["process", "disk"]:
    match parse_qsl(query, keep_blank_values=True):
        case []:
            return "process"
        case [("durability", "process" | "disk" as durability)]:
            return durability
        case _:
            raise InvalidStoreURL(url, "the only parameters are durability=process and durability=disk")
