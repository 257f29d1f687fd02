"""API keys and their tenants. Only the SHA-256 of a key is kept."""

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
    """The authenticated sender of a request. `key_id` is the public name of the key and reveals nothing about it."""

    tenant: str
    key_id: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A generated key: `key` is for the client, `stored` for the server's configuration."""

    key: str
    stored: str


def new_key() -> NewKey:
    """Generate a key of the form `cmdc_<id>_<secret>` with a secret of 256 random bits."""
    key = f"cmdc_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
    return NewKey(key, f"sha256:{_digest(key)}")


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    principal: Principal


_UNKNOWN = _Entry("0" * 64, Principal("", ""))


class KeyRing:
    """The valid API keys, each with its tenant. A tenant may have several, which allows key rotation."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        """`tenants` maps keys, in plain text or as `sha256:<hex>`, to tenants."""
        self._entries = _entries(tenants)
        self._revoked: list[Callable[[set[str]], None]] = []

    def __bool__(self) -> bool:
        return bool(self._entries)

    def principal(self, key: str) -> Principal | None:
        """The principal of a key, or None if the key is not valid.

        The lookup uses the public name, and a digest is compared in constant time even if there is no such name: the
        response time reveals nothing about the valid keys.
        """
        digest = _digest(key)
        entry = self._entries.get(key_id(digest), _UNKNOWN)
        return entry.principal if compare_digest(entry.digest, digest) else None

    def knows(self, key_id: str) -> bool:
        """Whether a valid key has this public name."""
        return key_id in self._entries

    def principals(self) -> list[Principal]:
        return [entry.principal for entry in self._entries.values()]

    def replace(self, tenants: Mapping[str, str]) -> None:
        """Replace all keys; listeners receive the keyIds that were revoked or moved to another tenant."""
        before = self._entries
        self._entries = _entries(tenants)
        revoked = {name for name, entry in before.items() if self._entries.get(name) != entry}
        if revoked:
            for listener in self._revoked:
                listener(revoked)

    def on_revoked(self, listener: Callable[[set[str]], None]) -> None:
        """Call `listener` with the keyIds whenever keys are revoked."""
        self._revoked.append(listener)


def key_id(digest: str) -> str:
    """The public name of a key, derived from its SHA-256 in hex."""
    return f"key_{sha256(digest.encode()).hexdigest()[:12]}"


def check_keys(keys: Iterable[str]) -> None:
    """Raise ValueError for a key that cannot be sent in a header; the message does not contain the key."""
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
