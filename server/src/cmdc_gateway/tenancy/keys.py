"""API keys: whose they are. A key itself is never kept, only its SHA-256."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from re import fullmatch

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request. `key_id` names the key in public and says nothing about it."""

    tenant: str
    key_id: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: `key` is for its owner, `stored` for the server's configuration."""

    key: str
    stored: str


def new_key() -> NewKey:
    """A key as `cmdc_<id>_<secret>`, with 256 bits of chance in the secret."""
    key = f"cmdc_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
    return NewKey(key, f"sha256:{_digest(key)}")


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    principal: Principal


_UNKNOWN = _Entry("0" * 64, Principal("", ""))


class KeyRing:
    """The keys that open this server, each with its tenant. A tenant may have several, so that one can replace another."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        """`tenants` maps a key, or `sha256:<hex>` of one, to its tenant."""
        self._entries = _entries(tenants)
        self._revoked: list[Callable[[set[str]], None]] = []

    def __bool__(self) -> bool:
        return bool(self._entries)

    def principal(self, key: str) -> Principal | None:
        """Whose key this is.

        It is looked up by its public name, and compared in constant time whether there is one of that name or not: the
        time that a refusal takes tells nothing about the keys there are.
        """
        digest = _digest(key)
        entry = self._entries.get(key_id(digest), _UNKNOWN)
        return entry.principal if compare_digest(entry.digest, digest) else None

    def knows(self, key_id: str) -> bool:
        """Whether the key of this public name opens anything now."""
        return key_id in self._entries

    def principals(self) -> list[Principal]:
        return [entry.principal for entry in self._entries.values()]

    def replace(self, tenants: Mapping[str, str]) -> None:
        """Take another set of keys; whoever listens hears the keyIds that open nothing any longer, or not the same."""
        before = self._entries
        self._entries = _entries(tenants)
        gone = {name for name, entry in before.items() if self._entries.get(name) != entry}
        if gone:
            for listener in self._revoked:
                listener(gone)

    def on_revoked(self, listener: Callable[[set[str]], None]) -> None:
        self._revoked.append(listener)


def key_id(digest: str) -> str:
    """The public name of a key, from its SHA-256 (hex)."""
    return f"key_{sha256(digest.encode()).hexdigest()[:12]}"


def check_keys(keys: Iterable[str]) -> None:
    """Raise ValueError, without repeating the key, for one that could not be sent in a header."""
    for key in keys:
        if key.startswith("sha256:"):
            if not fullmatch(r"sha256:[0-9a-f]{64}", key):
                raise ValueError("an API key written as sha256: needs 64 lower-case hex digits")
        elif not fullmatch(r"[!-~]{1,512}", key):
            raise ValueError("an API key must be 1 to 512 visible ASCII characters")


def _entries(tenants: Mapping[str, str]) -> dict[str, _Entry]:
    digests = {_stored_digest(key): tenant for key, tenant in tenants.items()}
    return {
        name: _Entry(digest, Principal(tenant, name)) for digest, tenant in digests.items() for name in [key_id(digest)]
    }


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _stored_digest(key: str) -> str:
    return key.removeprefix("sha256:") if key.startswith("sha256:") else _digest(key)
