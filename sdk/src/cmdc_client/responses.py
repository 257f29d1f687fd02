"""Turns an HTTP response into the expected model, or into an exception.

The generated models trust their input. This module does not: everything that the protocol does not allow raises a
`ProtocolError` that says what is wrong and where.
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

from cmdc_client.errors import ERRORS_BY_CODE, ApiError, CmdcError, ErrorDetail, ErrorResponse, ProtocolError
from cmdc_client.validation import find_error

T = TypeVar("T")

_MAX_SHOWN = 120
_MAX_RETRY_AFTER = 10**9


class Model(Protocol):
    """A generated model."""

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self: ...


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A complete HTTP response. `request` describes the request; header names are in lower case."""

    request: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The media type in lower case, without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class ExpectedResponse(Generic[T]):
    """The model and the statuses of a successful response.

    `defaults` has values for the members that a server of the base protocol omits.
    """

    model: type[T]
    statuses: tuple[int, ...] = (200,)
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def parse(self, response: RawResponse) -> T:
        """Return the model. Raises the ApiError that the response describes, or ProtocolError."""
        if response.status not in self.statuses:
            raise error_from_response(response)
        return self.parse_members(json_object(response), response.request)

    def parse_members(self, members: Mapping[str, Any], where: str) -> T:
        """Return the model of a JSON object. Raises ProtocolError."""
        model = cast("type[Model]", self.model)
        try:
            value = model.from_dict({**self.defaults, **members})
        except KeyError as missing:
            raise ProtocolError(where, f"the response lacks the member {missing}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ProtocolError(where, f"the response has an invalid member: {error}") from None
        invalid = find_error(value, self.model)
        if invalid is not None:
            raise ProtocolError(where, f"invalid response: {invalid}")
        return cast("T", value)


def error_from_response(response: RawResponse) -> CmdcError:
    """Return the exception for a response with an unexpected status. Raises ProtocolError if its body is invalid."""
    if 300 <= response.status < 400:
        target = _host(response.headers.get("location", ""))
        return ProtocolError(
            response.request, f"the response is a redirect ({response.status}) to {target}, which is not followed"
        )
    if response.status < 400:
        return ProtocolError(response.request, f"unexpected status {response.status}")
    members = json_object(response)
    return error_from_members(members, request=response.request, status=response.status, headers=response.headers)


def error_from_members(
    members: Mapping[str, Any], *, request: str, status: int | None = None, headers: Mapping[str, str] | None = None
) -> ApiError:
    """Return the exception that an error body describes. Raises ProtocolError if the body is invalid.

    Without a status, as on a WebSocket, the status that the protocol defines for the code is used.
    """
    code, message = members.get("error"), members.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ProtocolError(request, "the error body lacks the strings `error` and `message`", http_status=status)
    others = {name: value for name, value in members.items() if name not in ("error", "message", "details")}
    error_class = ERRORS_BY_CODE.get(code, ApiError)
    return error_class(
        ErrorResponse(
            request,
            status or error_class.expected_status,
            code,
            message,
            details=_details(members.get("details")),
            members=others,
            retry_after=_retry_after(others.get("retryAfter"), (headers or {}).get("retry-after")),
        )
    )


def json_object(response: RawResponse) -> dict[str, Any]:
    """Return the JSON object in the body of a response. Raises ProtocolError."""
    if response.media_type != "application/json":
        shown = response.body[:_MAX_SHOWN].decode(errors="replace")
        raise ProtocolError(
            response.request,
            f"the response ({response.status}) has the content type {response.media_type or '(none)'}, not"
            f" application/json; it begins with {shown!r}",
            http_status=response.status,
        )
    return parse_object(response.body, response.request)


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ProtocolError."""
    try:
        value: object = _DECODER.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(where, f"{text[:_MAX_SHOWN]!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ProtocolError(where, f"{text[:_MAX_SHOWN]!r} is not a JSON object")
    return cast("dict[str, Any]", value)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"the number {text[:_MAX_SHOWN]} is out of range")
    return value


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_finite)


def _host(location: str) -> str:
    """Return the host of a redirect; the rest of its URL may contain secrets."""
    try:
        return urlsplit(location).hostname or "another path"
    except ValueError:
        return "an invalid URL"


def _details(value: object) -> tuple[ErrorDetail, ...]:
    """Return the valid details; an invalid one must not hide the error itself."""
    if not isinstance(value, list):
        return ()
    entries = [cast("Mapping[Any, object]", each) for each in cast("list[object]", value) if isinstance(each, dict)]
    pairs = [(entry.get("path"), entry.get("message")) for entry in entries]
    return tuple(ErrorDetail(path, text) for path, text in pairs if isinstance(path, str) and isinstance(text, str))


def _retry_after(member: object, header: str | None) -> float | None:
    """Return the seconds from the body, or else from the header, whose value may also be a date."""
    if isinstance(member, int | float) and not isinstance(member, bool) and 0 <= member < _MAX_RETRY_AFTER:
        return float(member)
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (ValueError, OverflowError):
        return None
