"""Whether a call of a tool is genuine: signatures as in Standard Webhooks, made with a secret that both sides know.

Nothing of a body is believed, or even parsed, before its signature was found right. No sentence here repeats a secret or
tells what the signature should have been.
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

_MARK: Final = "whsec_"
_SIZES: Final = range(24, 65)
_NEW_SIZE: Final = 32
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class Headers(Protocol):
    """The headers of a request, of any framework: names, in whatever case, with their values."""

    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class CallbackCall:
    """A call of a tool, as the gateway sent it. `call_id` is the same when it is sent again."""

    call_id: str
    tool_name: str
    args: Mapping[str, Any]
    session_id: str


class CallbackRejected(CmdcError):
    """A request is not a call that the gateway has sent just now; the sentence says why."""


class NotSigned(CallbackRejected):
    """The headers of a signature are missing."""


class WrongSignature(CallbackRejected):
    """The signature was made for another body, another id or time, or with another secret."""


class StaleTimestamp(CallbackRejected):
    """The signature is right, but old, or from the future: this may be a recording of a call, or a clock is wrong."""


class MalformedCall(CallbackRejected):
    """The signature is right, but the body is no call."""


def new_secret() -> str:
    """A secret to register tools with, from the system's own randomness."""
    return _MARK + base64.b64encode(secrets.token_bytes(_NEW_SIZE)).decode()


def verify_callback(
    secret: str,
    headers: Headers,
    body: bytes,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> CallbackCall:
    """The call that this request carries, if the gateway has sent it, and not longer ago than `tolerance_seconds`.

    `body` is what came, byte for byte, before any parsing. `headers` may be those of any framework.

    Raises NotSigned, WrongSignature, StaleTimestamp or MalformedCall, which are all CallbackRejected; ValueError if the
    secret is none.
    """
    key = _key(secret)
    given = {name.lower(): value for name, value in headers.items()}
    call_id, timestamp, signatures = (_header(given, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    # compare_digest takes a str only if it is ASCII, and what was sent may be anything.
    expected = _signature(key, call_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, sent.encode(errors="replace")) for sent in signatures.split(" ")):
        raise WrongSignature("no signature of this call is right: it, or the secret, is not what the gateway has")
    _check_time(timestamp, now(), tolerance_seconds)
    call = _parse(body)
    if call.call_id != call_id:
        raise MalformedCall(f"the webhook-id is not the callId {call.call_id!r:.100} of the body")
    return call


def sign(secret: str, call_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers with which the gateway sends a call: to try one's own tools without one. Raises ValueError."""
    return {
        "webhook-id": call_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": _signature(_key(secret), call_id, str(timestamp), body),
    }


def check_secret(secret: str) -> None:
    """Raise ValueError unless this is a secret as in Standard Webhooks."""
    _key(secret)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_MARK), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_MARK) or len(key) not in _SIZES:
        raise ValueError("a secret is whsec_ and the base64 of 24 to 64 bytes")
    return key


def _signature(key: bytes, call_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{call_id}.{timestamp}.".encode(errors="replace") + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _header(headers: Mapping[str, str], name: str) -> str:
    if not (value := headers.get(name, "")):
        raise NotSigned(f"the call is not signed: it has no {name}")
    return value


def _check_time(timestamp: str, now: float, tolerance: float) -> None:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise StaleTimestamp("the webhook-timestamp must be whole seconds since 1970")
    age = now - int(timestamp)
    if abs(age) > tolerance:
        when = f"{age:.0f} seconds ago" if age > 0 else f"{-age:.0f} seconds in the future"
        raise StaleTimestamp(f"the call was signed {when}, and {tolerance:g} are tolerated; is a clock wrong?")


def _parse(body: bytes) -> CallbackCall:
    try:
        said: Any = json.loads(body.decode(), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"the body is not JSON: {type(error).__name__}") from None
    match said:
        case {"callId": str(call_id), "toolName": str(tool_name), "args": dict(), "sessionId": str(session_id)}:
            return CallbackCall(call_id, tool_name, said["args"], session_id)
        case _:
            raise MalformedCall("the body must be an object with callId, toolName, args (an object) and sessionId")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
