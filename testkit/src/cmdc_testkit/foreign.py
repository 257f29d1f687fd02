"""Tenant isolation: are resources of another tenant indistinguishable from missing ones (HTTP-8)? Uses responses only."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_QUOTED = 60  # messages repeat at least this many characters of a value in the request
_CHANGING = frozenset({"date"})  # headers that differ between equal requests


@dataclass(frozen=True, slots=True)
class Answer:
    """A response over HTTP, or an acknowledgment, which has neither status nor headers."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def granted(self) -> bool:
        return 200 <= self.status < 300 or (self.status == 0 and b'"error"' not in self.body)

    def lasting(self) -> dict[str, str]:
        """The headers that are equal for equal requests."""
        return {name: value for name, value in self.headers if name not in _CHANGING}


@dataclass(frozen=True, slots=True)
class Foreign:
    """An id of another tenant, and its twin: an id of the same form that was never used.

    Both have the same length, so that a message that repeats one does not reveal which.
    """

    what: str
    value: str
    twin: str


@dataclass(slots=True)
class Belongings:
    """The ids of a tenant that another must not see. `marks` are their random parts, which cannot be guessed."""

    marks: dict[str, str] = field(default_factory=dict[str, str])
    ids: list[Foreign] = field(default_factory=list[Foreign])

    def mark(self, value: str, twin: str) -> None:
        """Add a random part of ids, and its replacement in twins."""
        self.marks[value] = twin

    def add(self, what: str, value: str) -> None:
        """Add an id that contains marks."""
        self.ids.append(Foreign(what, value, self.twin(value)))

    def add_list_cursor(self, value: str) -> None:
        """Add a list cursor, which has the id of a session encoded in it."""
        text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        twin = base64.urlsafe_b64encode(self.twin(text).encode()).decode().rstrip("=")
        self.ids.append(Foreign("cursor of the list", value, twin))

    def twin(self, text: str) -> str:
        for value, other in self.marks.items():
            text = text.replace(value, other)
        return text


def tell_apart(foreign: Answer, unknown: Answer, twins: Mapping[str, str]) -> list[str]:
    """Return the differences between the responses for a foreign id and for an unknown one.

    `twins` maps the ids in the first request to those in the second. Successful responses contain data of the caller and
    are compared by their headers only.
    """
    differences: list[str] = []
    if foreign.granted and unknown.granted:
        if set(foreign.lasting()) != set(unknown.lasting()):
            differences.append(f"headers {foreign.lasting()} and {unknown.lasting()}")
        return differences
    if foreign.status != unknown.status:
        differences.append(f"status {foreign.status} and {unknown.status}")
    if foreign.lasting() != unknown.lasting():
        differences.append(f"headers {foreign.lasting()} and {unknown.lasting()}")
    body = foreign.body
    for value, twin in twins.items():
        for length in range(len(value), min(len(value), _QUOTED) - 1, -1):  # messages may truncate the value
            body = body.replace(value[:length].encode(), twin[:length].encode())
    if body != unknown.body:
        differences.append(f"body {foreign.body!r} and {unknown.body!r}")
    return differences


def leaked(answer: Answer, marks: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Return the foreign marks in a response, except those that its request contained."""
    content = answer.body + repr(answer.headers).encode()
    for value in sent:
        content = content.replace(value.encode(), b"")
    return [mark for mark in marks if mark.encode() in content]
