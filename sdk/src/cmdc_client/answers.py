"""From an HTTP answer to a value: the model that was promised, or the error that it is.

The generated models trust what they read. Here nothing is trusted: whatever the protocol does not allow becomes a
`ProtocolError` that says what was wrong and where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import isinf
from time import time
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar, cast
from urllib.parse import urlsplit

from cmdc_client.errors import BY_CODE, ApiError, CmdcError, Detail, ProtocolError, Refusal
from cmdc_client.shapes import flaw

T = TypeVar("T")

_SHOWN = 120
_FOREVER = 10**9


class Model(Protocol):
    """A generated model."""

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request, whole. Header names are in lower case."""

    request: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Promise(Generic[T]):
    """What the protocol promises as an answer: a model, with one of these statuses.

    `base` has the members that a server of the base protocol leaves out, and what they then are.
    """

    model: type[T]
    statuses: tuple[int, ...] = (200,)
    base: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def read(self, answer: Answer) -> T:
        """The value. Raises the error that the answer is, or a ProtocolError."""
        if answer.status not in self.statuses:
            raise refused(answer)
        return self.of(json_object(answer), answer.request)

    def of(self, data: Mapping[str, Any], where: str) -> T:
        """The value of this JSON object. Raises ProtocolError."""
        model = cast("type[Model]", self.model)
        try:
            value = model.from_dict({**self.base, **data})
        except KeyError as missing:
            raise ProtocolError(where, f"the answer lacks the member {missing}") from None
        except (AttributeError, TypeError, ValueError) as wrong:
            raise ProtocolError(where, f"the answer has a member that is not as it must be: {wrong}") from None
        found = flaw(value, self.model)
        if found is not None:
            raise ProtocolError(where, f"in the answer, {found}")
        return cast("T", value)


def refused(answer: Answer) -> CmdcError:
    """The error that an answer is which was not the promised one. Raises ProtocolError for one that cannot be read."""
    if 300 <= answer.status < 400:
        place = _host(answer.headers.get("location", ""))
        return ProtocolError(
            answer.request, f"the answer is a redirect ({answer.status}) to {place}, which is not followed"
        )
    if answer.status < 400:
        return ProtocolError(answer.request, f"the answer has the status {answer.status}, which is not one of its own")
    data = json_object(answer)
    return refusal(data, request=answer.request, status=answer.status, headers=answer.headers)


def refusal(
    data: Mapping[str, Any], *, request: str, status: int | None = None, headers: Mapping[str, str] | None = None
) -> ApiError:
    """The error that an error body tells of. Without a status it is the one that its code has. Raises ProtocolError."""
    code, message = data.get("error"), data.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ProtocolError(request, "an error body lacks the strings `error` and `message`", http_status=status)
    others = {name: value for name, value in data.items() if name not in ("error", "message", "details")}
    kind = BY_CODE.get(code, ApiError)
    return kind(
        Refusal(
            request,
            status or kind.expected_status,
            code,
            message,
            details=_details(data.get("details")),
            members=others,
            retry_after=_retry_after(others.get("retryAfter"), (headers or {}).get("retry-after")),
        )
    )


def json_object(answer: Answer) -> dict[str, Any]:
    """The JSON object that an answer holds. Raises ProtocolError."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        shown = answer.body[:_SHOWN].decode(errors="replace")
        raise ProtocolError(
            answer.request,
            f"the answer ({answer.status}) is {kind or 'of no type'} where JSON was expected; it begins {shown!r}",
            http_status=answer.status,
        )
    return parse_object(answer.body, answer.request)


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object that a text is. Raises ProtocolError."""
    try:
        data: object = _DECODER.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as wrong:
        shown = text[:_SHOWN]
        raise ProtocolError(where, f"{shown!r} is not JSON ({wrong})") from None
    if not isinstance(data, dict):
        raise ProtocolError(where, f"{text[:_SHOWN]!r} is not a JSON object")
    return cast("dict[str, Any]", data)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text[:_SHOWN]} is beyond all numbers")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _host(location: str) -> str:
    """Where a redirect leads, without what else its address may hold."""
    try:
        return urlsplit(location).hostname or "another path"
    except ValueError:
        return "what is no address"


def _details(given: object) -> tuple[Detail, ...]:
    """The details that can be read; an error is not made worse by one that cannot."""
    if not isinstance(given, list):
        return ()
    entries = [cast("Mapping[Any, object]", each) for each in cast("list[object]", given) if isinstance(each, dict)]
    pairs = [(entry.get("path"), entry.get("message")) for entry in entries]
    return tuple(Detail(path, text) for path, text in pairs if isinstance(path, str) and isinstance(text, str))


def _retry_after(member: object, header: str | None) -> float | None:
    """Seconds, from the body's member or from the header, which may also be a date."""
    if isinstance(member, int | float) and not isinstance(member, bool) and 0 <= member < _FOREVER:
        return float(member)
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (ValueError, OverflowError):
        return None
