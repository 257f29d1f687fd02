"""Direct access to a connection, for streams.

ASGI has no message to abort a connection, to ask how much of it is unsent, or to write without a coroutine for each
message. The protocol classes of this package put a `TransportHandle` into the scope; under any other server a stream
gets `NO_TRANSPORT`, and everything goes through ASGI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Scope

_EXTENSION: Final = "cmdc.transport"

Push = Callable[[bytes], bool]
"""Write without waiting. Returns False, and writes nothing, where the write would have to wait."""


@dataclass(frozen=True, slots=True)
class TransportHandle:
    """What a stream may do to its connection. `pusher` returns a `Push` for the current response, if there is one."""

    abort: Callable[[], None]
    """Close now; unsent data is lost."""
    reset: Callable[[], None]
    """Like `abort`, with a TCP reset, so that a peer that does not read learns of it."""
    buffered_bytes: Callable[[], int]
    is_closing: Callable[[], bool]
    pusher: Callable[[], Push | None]


def _do_nothing() -> None:
    """Without a transport there is nothing to close."""


NO_TRANSPORT: Final = TransportHandle(
    abort=_do_nothing,
    reset=_do_nothing,
    buffered_bytes=lambda: 0,
    is_closing=lambda: False,
    pusher=lambda: None,
)


def extensions(handle: TransportHandle) -> dict[str, Any]:
    """Return the value of `scope["extensions"]` that carries the handle."""
    return {_EXTENSION: handle}


def transport_of(scope: Scope) -> TransportHandle:
    """Return the handle of this request's connection, `NO_TRANSPORT` if the server provides none."""
    handle: TransportHandle = scope.get("extensions", {}).get(_EXTENSION, NO_TRANSPORT)
    return handle
