"""Is what belongs to another tenant as if it had never been (HTTP-8)? Judged from answers alone."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_QUOTED = 60  # so many characters at least are told of what was sent, where a message repeats it
_CHANGING = frozenset({"date"})  # the headers that differ from one answer to the next whatever was asked


@dataclass(frozen=True, slots=True)
class TenantResponse:
    """What came back: over HTTP, or as an acknowledgement, which has no status and no headers."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def granted(self) -> bool:
        return 200 <= self.status < 300 or (self.status == 0 and b'"error"' not in self.body)

    def lasting(self) -> dict[str, str]:
        """The headers that an equal request is answered with again."""
        return {name: value for name, value in self.headers if name not in _CHANGING}


@dataclass(frozen=True, slots=True)
class ForeignId:
    """Something of another tenant, and its twin: the same in form, and never used by anybody.

    Both are written with equally many characters, so that no length is told by the message that repeats one.
    """

    kind: str
    value: str
    substitute: str


@dataclass(slots=True)
class TenantData:
    """What a tenant has that another must not see. `marks` are the parts that no one else would come upon by chance."""

    secrets: dict[str, str] = field(default_factory=dict[str, str])
    ids: list[ForeignId] = field(default_factory=list[ForeignId])

    def add_secret(self, value: str, twin: str) -> None:
        """Note a part of ids that only chance has made, and what stands for it in twins."""
        self.secrets[value] = twin

    def add_id(self, what: str, value: str) -> None:
        """Note an id that is made of marks."""
        self.ids.append(ForeignId(what, value, self.substitute(value)))

    def add_list_cursor(self, value: str) -> None:
        """Note the cursor of a list, which has the id of a session inside."""
        text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        twin = base64.urlsafe_b64encode(self.substitute(text).encode()).decode().rstrip("=")
        self.ids.append(ForeignId("cursor of the list", value, twin))

    def substitute(self, text: str) -> str:
        for value, other in self.secrets.items():
            text = text.replace(value, other)
        return text


def differences(foreign: TenantResponse, unknown: TenantResponse, twins: Mapping[str, str]) -> list[str]:
    """By what somebody could tell a foreign thing from one that was never there.

    `twins` maps what was asked about to what was asked about instead. Answers that grant something have news of the
    asker's own in them, and are compared by their form.
    """
    flaws: list[str] = []
    if foreign.granted and unknown.granted:
        if set(foreign.lasting()) != set(unknown.lasting()):
            flaws.append(f"headers {foreign.lasting()} and {unknown.lasting()}")
        return flaws
    if foreign.status != unknown.status:
        flaws.append(f"status {foreign.status} and {unknown.status}")
    if foreign.lasting() != unknown.lasting():
        flaws.append(f"headers {foreign.lasting()} and {unknown.lasting()}")
    body = foreign.body
    for value, twin in twins.items():
        for length in range(len(value), min(len(value), _QUOTED) - 1, -1):  # a message quotes only so much of it
            body = body.replace(value[:length].encode(), twin[:length].encode())
    if body != unknown.body:
        flaws.append(f"body {foreign.body!r} and {unknown.body!r}")
    return flaws


def leaked_secrets(answer: TenantResponse, marks: Iterable[str], sent: Iterable[str]) -> list[str]:
    """The foreign marks that an answer holds, but for what its asker has sent."""
    told = answer.body + repr(answer.headers).encode()
    for value in sent:
        told = told.replace(value.encode(), b"")
    return [mark for mark in marks if mark.encode() in told]
