"""The exceptions that the client raises, except for one class per error code, which is generated.

`cmdc_client.errors` exports all of them. This module has no dependencies, so that every other module can raise them.
No message of an exception ever contains an API key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar


class CmdcError(Exception):
    """Base class of every exception that this package raises about a server or a run."""


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One invalid member of a request body: the `path` to it, and a `message` for people."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error response of the server.

    `request` is the method and the path, or the action on a WebSocket. `members` are the members of the body other than
    `error`, `message` and `details`. `retry_after` is in seconds.
    """

    request: str
    http_status: int
    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()
    members: Mapping[str, object] = field(default_factory=dict[str, object])
    retry_after: float | None = None


class ApiError(CmdcError):
    """The server returned an error.

    Each error code of the protocol has a subclass of its own. A code that this release does not know is raised as a
    plain `ApiError`.
    """

    expected_status: ClassVar[int] = 0
    """The HTTP status that the protocol defines for the code; 0 for an unknown code."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response)
        self.response = response

    @property
    def code(self) -> str:
        """The error code, such as `not_found`."""
        return self.response.code

    @property
    def message(self) -> str:
        """The server's explanation, for people."""
        return self.response.message

    @property
    def http_status(self) -> int:
        """The HTTP status of the response; for an error on a WebSocket, the status that its code has over HTTP."""
        return self.response.http_status

    @property
    def details(self) -> tuple[ErrorDetail, ...]:
        """The invalid members of the request body, if the server listed them."""
        return self.response.details

    @property
    def request(self) -> str:
        """The method and the path of the request, or the action on a WebSocket."""
        return self.response.request

    @property
    def retry_after(self) -> float | None:
        """The seconds after which the server asks the client to retry, if it said so."""
        return self.response.retry_after

    def __str__(self) -> str:
        details = "".join(f"; {detail.path}: {detail.message}" for detail in self.details)
        return f"{self.request} failed ({self.http_status} {self.code}): {self.message}{details}"

    def _text_member(self, name: str) -> str:
        value = self.response.members.get(name)
        return value if isinstance(value, str) else ""


class ProtocolError(CmdcError):
    """The server violates the protocol.

    `where` is the request, the event or the message concerned, and `what` is the violation. `http_status` is the status
    of the response, if a response could not be used because of its body.
    """

    def __init__(self, where: str, what: str, *, http_status: int | None = None) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what
        self.http_status = http_status

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConnectionFailed(CmdcError):
    """The server could not be reached, or the connection was lost.

    `sent` is False if the server certainly did not receive the request, and True if it may have processed it.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class CannotResume(ConnectionFailed):
    """A stream was lost that cannot be resumed, because the server does not send event ids."""


class SocketClosed(ConnectionFailed):
    """The WebSocket is closed.

    `close_code` and `reason` are those of the server's close frame; the code is 1006 if there was no close frame.
    """

    def __init__(self, message: str, *, close_code: int, reason: str = "") -> None:
        super().__init__(message)
        self.close_code = close_code
        self.reason = reason
