"""Verifies the signature of a call of a tool, in the format of Standard Webhooks, with a shared secret.

A body is not parsed before its signature has been verified. No message contains a secret or the expected signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

from cmdc_client.errors import CmdcError

TOLERANCE_SECONDS: Final = 300

_PREFIX: Final = "whsec_"
_SIZES: Final = range(24, 65)
_NEW_SIZE: Final = 32
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class Headers(Protocol):
    """The headers of a request in any framework: names, in any case, and values."""

    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class CallbackCall:
    """A call of a tool, as the gateway sent it. A call that is sent again has the same `call_id`."""

    call_id: str
    tool_name: str
    args: Mapping[str, Any]
    session_id: str


class CallbackRejected(CmdcError):
    """A request is not a genuine, recent call of the gateway. The message says why."""


class NotSigned(CallbackRejected):
    """A signature header is missing."""


class WrongSignature(CallbackRejected):
    """The signature does not match the body, the id, the timestamp and the secret."""


class StaleTimestamp(CallbackRejected):
    """The signature is valid, but its timestamp is too old or in the future: a replay, or a wrong clock."""


class MalformedCall(CallbackRejected):
    """The signature is valid, but the body is not a call."""


def new_secret() -> str:
    """Return a new random secret for registering tools."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SIZE)).decode()


def verify_callback(
    secret: str,
    headers: Headers,
    body: bytes,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> CallbackCall:
    """Verify a request and return the call that it contains.

    Args:
        secret: The secret with which the tool was registered.
        headers: The headers of the request, in any framework.
        body: The body as it was received, before any parsing.
        tolerance_seconds: How far the timestamp may differ from the current time.
        now: Returns the current time, in seconds since 1970.

    Raises:
        CallbackRejected: `NotSigned`, `WrongSignature`, `StaleTimestamp` or `MalformedCall`.
        ValueError: The secret is invalid.
    """
    key = _key(secret)
    given = {name.lower(): value for name, value in headers.items()}
    call_id, timestamp, signatures = (_header(given, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    # As bytes, because compare_digest raises for a str that is not ASCII.
    expected = _signature(key, call_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, sent.encode(errors="replace")) for sent in signatures.split(" ")):
        raise WrongSignature("invalid signature: the call was not signed with this secret, or was changed on the way")
    _check_time(timestamp, now(), tolerance_seconds)
    call = _parse(body)
    if call.call_id != call_id:
        raise MalformedCall(f"the webhook-id differs from the callId {call.call_id!r:.100} in the body")
    return call


def sign(secret: str, call_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the signature headers of a call, for testing tools without a gateway.

    `timestamp` is in seconds since 1970. Raises ValueError if the secret is invalid.
    """
    return {
        "webhook-id": call_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": _signature(_key(secret), call_id, str(timestamp), body),
    }


def check_secret(secret: str) -> None:
    """Raise ValueError unless the secret has the format of Standard Webhooks."""
    _key(secret)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _SIZES:
        raise ValueError("a secret must be whsec_ followed by the base64 encoding of 24 to 64 bytes")
    return key


def _signature(key: bytes, call_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{call_id}.{timestamp}.".encode(errors="replace") + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _header(headers: Mapping[str, str], name: str) -> str:
    if not (value := headers.get(name, "")):
        raise NotSigned(f"the call is not signed: the header {name} is missing")
    return value


def _check_time(timestamp: str, now: float, tolerance: float) -> None:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise StaleTimestamp("the webhook-timestamp must be an integer, in seconds since 1970")
    age = now - int(timestamp)
    if abs(age) > tolerance:
        when = f"{age:.0f} seconds ago" if age > 0 else f"{-age:.0f} seconds in the future"
        raise StaleTimestamp(f"the call was signed {when}, more than the tolerance of {tolerance:g}; check the clocks")


def _parse(body: bytes) -> CallbackCall:
    try:
        value: Any = json.loads(body.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"the body is not JSON: {type(error).__name__}") from None
    match value:
        case {"callId": str(call_id), "toolName": str(tool_name), "args": dict(), "sessionId": str(session_id)}:
            return CallbackCall(call_id, tool_name, value["args"], session_id)
        case _:
            raise MalformedCall("the body must be an object with callId, toolName, args (an object) and sessionId")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
