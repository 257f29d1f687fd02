"""Compares the responses about another tenant's data with those about data that never existed (HTTP-8)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_QUOTED_CHARACTERS = 60
"""A message that quotes a value quotes at least this many of its characters."""
_VARYING_HEADERS = frozenset({"date"})


@dataclass(frozen=True, slots=True)
class TenantResponse:
    """An HTTP response, or an acknowledgement, which has no status and no headers."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def granted(self) -> bool:
        return 200 <= self.status < 300 or (self.status == 0 and b'"error"' not in self.body)

    def stable_headers(self) -> dict[str, str]:
        """The headers that the response to the same request has again."""
        return {name: value for name, value in self.headers if name not in _VARYING_HEADERS}


@dataclass(frozen=True, slots=True)
class ForeignId:
    """An id of another tenant, and a substitute of the same form and length that was never used."""

    kind: str
    value: str
    substitute: str


@dataclass(slots=True)
class TenantData:
    """What a tenant has and other tenants must not see. `secrets` maps its random strings to their substitutes."""

    secrets: dict[str, str] = field(default_factory=dict[str, str])
    ids: list[ForeignId] = field(default_factory=list[ForeignId])

    def add_secret(self, value: str, substitute: str) -> None:
        """Add a random string that is part of ids."""
        self.secrets[value] = substitute

    def add_id(self, kind: str, value: str) -> None:
        """Add an id that contains secrets."""
        self.ids.append(ForeignId(kind, value, self.substitute(value)))

    def add_list_cursor(self, value: str) -> None:
        """Add the cursor of a list, which contains a session's id in Base64."""
        text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        substitute = base64.urlsafe_b64encode(self.substitute(text).encode()).decode().rstrip("=")
        self.ids.append(ForeignId("list cursor", value, substitute))

    def substitute(self, text: str) -> str:
        """Replace every secret in a text."""
        for value, substitute in self.secrets.items():
            text = text.replace(value, substitute)
        return text


def differences(foreign: TenantResponse, unknown: TenantResponse, substitutes: Mapping[str, str]) -> list[str]:
    """List what distinguishes the response about a foreign id from the response about its substitute.

    `substitutes` maps the ids of the first request to those of the second. Responses that grant something contain new
    data of the caller's own, so only the names of their headers are compared.
    """
    found: list[str] = []
    if foreign.granted and unknown.granted:
        if set(foreign.stable_headers()) != set(unknown.stable_headers()):
            found.append(f"headers {foreign.stable_headers()} and {unknown.stable_headers()}")
        return found
    if foreign.status != unknown.status:
        found.append(f"status {foreign.status} and {unknown.status}")
    if foreign.stable_headers() != unknown.stable_headers():
        found.append(f"headers {foreign.stable_headers()} and {unknown.stable_headers()}")
    body = foreign.body
    for value, substitute in substitutes.items():
        for length in range(len(value), min(len(value), _QUOTED_CHARACTERS) - 1, -1):
            body = body.replace(value[:length].encode(), substitute[:length].encode())
    if body != unknown.body:
        found.append(f"body {foreign.body!r} and {unknown.body!r}")
    return found


def leaked_secrets(response: TenantResponse, secrets: Iterable[str], sent: Iterable[str]) -> list[str]:
    """List the foreign secrets in a response, except where it repeats what its caller sent."""
    text = response.body + repr(response.headers).encode()
    for value in sent:
        text = text.replace(value.encode(), b"")
    return [secret for secret in secrets if secret.encode() in text]
