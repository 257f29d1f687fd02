"""One class for each way it can fail.

What the server refuses is an `ApiError`, with a subclass for each code of the protocol. A server that does not keep to
the protocol is a `ProtocolError`, one that cannot be reached a `ConnectionFailed`. None of them ever holds a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from cmdc_client.transcript import Transcript


class CmdcError(Exception):
    """Anything that this package raises about a server or a run."""


# -- what the server refuses -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing that is wrong with a request, and where in its body."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer as it came: what was asked, and what the server said of it.

    `request` is the method and the path, or the action on a WebSocket. `members` are what the body has beside `error`,
    `message` and `details`; `retry_after` is in seconds.
    """

    request: str
    http_status: int
    code: str
    message: str
    details: tuple[Detail, ...] = ()
    members: Mapping[str, object] = field(default_factory=dict[str, object])
    retry_after: float | None = None


class ApiError(CmdcError):
    """The server refused a request, and said why.

    `code` tells which refusal it is, `message` explains it to people, `details` name the members of the body that are
    at fault. A code that this release does not know is an `ApiError` itself; all others are one of its subclasses.
    """

    expected_status: ClassVar[int] = 0

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    @property
    def code(self) -> str:
        return self.refusal.code

    @property
    def message(self) -> str:
        return self.refusal.message

    @property
    def http_status(self) -> int:
        return self.refusal.http_status

    @property
    def details(self) -> tuple[Detail, ...]:
        return self.refusal.details

    @property
    def request(self) -> str:
        """The method and the path, or the action on a WebSocket."""
        return self.refusal.request

    def __str__(self) -> str:
        where = "".join(f"; {detail.path}: {detail.message}" for detail in self.details)
        return f"{self.request} was refused ({self.http_status} {self.code}): {self.message}{where}"

    def _member(self, name: str) -> str:
        value = self.refusal.members.get(name)
        return value if isinstance(value, str) else ""


class _Later(ApiError):
    @property
    def retry_after(self) -> float | None:
        """Seconds after which it is worth trying again, if the server said so."""
        return self.refusal.retry_after


class BadRequest(ApiError):
    """The request does not say something this server understands."""

    expected_status = 400


class InvalidCursor(ApiError):
    """A cursor that is malformed, or that names an event which has not happened yet."""

    expected_status = 400


class Unauthorized(ApiError):
    """No key, or one that is not known."""

    expected_status = 401


class BudgetExceeded(ApiError):
    """What may be spent has been spent."""

    expected_status = 402


class Forbidden(ApiError):
    """The credential is known but does not allow this."""

    expected_status = 403


class NotFound(ApiError):
    """There is nothing of that name, or it belongs to another tenant."""

    expected_status = 404


class SessionDead(ApiError):
    """The session exists, but its stored state cannot be loaded."""

    expected_status = 404


class MethodNotAllowed(ApiError):
    """The path exists, with other methods."""

    expected_status = 405


class RequestTimeout(ApiError):
    """The request took too long to arrive."""

    expected_status = 408


class AlreadyResolved(ApiError):
    """Another decision, or another answer, came first."""

    expected_status = 409

    @property
    def status(self) -> str:
        """What was decided: `approved`, `rejected`, `expired`, `cancelled`, or `answered`."""
        return self._member("status")


class DigestMismatch(ApiError):
    """The digest sent along is not that of the call which waits; nothing was decided."""

    expected_status = 409


class SessionExists(ApiError):
    """There is a session of that id."""

    expected_status = 409


class IdempotencyInProgress(ApiError):
    """The first request with this idempotency key has not been answered yet."""

    expected_status = 409


class CursorExpired(ApiError):
    """The cursor is of another log, or what follows it has been trimmed."""

    expected_status = 410

    @property
    def earliest(self) -> str:
        """The cursor after which the first kept event comes."""
        return self._member("earliest")

    @property
    def latest(self) -> str:
        """The cursor of the last event."""
        return self._member("latest")


class PayloadTooLarge(ApiError):
    """The body is longer than this server takes."""

    expected_status = 413


class UriTooLong(ApiError):
    """The URL is longer than this server takes."""

    expected_status = 414


class UnsupportedMediaType(ApiError):
    """The body is not declared as JSON in UTF-8."""

    expected_status = 415


class CreateFailed(ApiError):
    """The session cannot be made like this: a model, tool, plugin or option that is not offered."""

    expected_status = 422


class RegistrationFailed(ApiError):
    """The tool cannot be registered like this."""

    expected_status = 422


class IdempotencyMismatch(ApiError):
    """This idempotency key was used with another body."""

    expected_status = 422


class UpgradeRequired(ApiError):
    """A plain request to the address of the WebSocket."""

    expected_status = 426


class RateLimited(_Later):
    """Too many requests with this key."""

    expected_status = 429


class QueueFull(ApiError):
    """As many prompts wait in this session as may wait."""

    expected_status = 429


class HeadersTooLarge(ApiError):
    """The header block is larger than this server takes."""

    expected_status = 431


class Internal(ApiError):
    """A defect of the server; its message has the id under which the server's log keeps it."""

    expected_status = 500


class Unavailable(_Later):
    """The server cannot do this now: it is stopping, or its store is down."""

    expected_status = 503


BY_CODE: Final[Mapping[str, type[ApiError]]] = {
    "bad_request": BadRequest,
    "invalid_cursor": InvalidCursor,
    "unauthorized": Unauthorized,
    "budget_exceeded": BudgetExceeded,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "session_dead": SessionDead,
    "method_not_allowed": MethodNotAllowed,
    "request_timeout": RequestTimeout,
    "already_resolved": AlreadyResolved,
    "digest_mismatch": DigestMismatch,
    "session_exists": SessionExists,
    "idempotency_in_progress": IdempotencyInProgress,
    "cursor_expired": CursorExpired,
    "payload_too_large": PayloadTooLarge,
    "uri_too_long": UriTooLong,
    "unsupported_media_type": UnsupportedMediaType,
    "create_failed": CreateFailed,
    "registration_failed": RegistrationFailed,
    "idempotency_mismatch": IdempotencyMismatch,
    "upgrade_required": UpgradeRequired,
    "rate_limited": RateLimited,
    "queue_full": QueueFull,
    "headers_too_large": HeadersTooLarge,
    "internal": Internal,
    "unavailable": Unavailable,
}


# -- what goes wrong otherwise -----------------------------------------------------------------------------------------


class ProtocolError(CmdcError):
    """The server does not keep to the protocol. `where` it did not, and `what` was wrong there.

    `http_status` is that of the answer, where it was an answer whose body could not be used.
    """

    def __init__(self, where: str, what: str, *, http_status: int | None = None) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what
        self.http_status = http_status

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConnectionFailed(CmdcError):
    """The server could not be reached, or the connection to it was lost.

    `sent` tells whether the server may have taken the request: False means that it surely did nothing.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class CannotResume(ConnectionFailed):
    """A stream was lost, and its server gives no cursors by which it could be taken up again."""


class SocketClosed(ConnectionFailed):
    """The WebSocket is closed. `close_code` and `reason` are the server's, 1006 if it did not say goodbye."""

    def __init__(self, message: str, *, close_code: int, reason: str = "") -> None:
        super().__init__(message)
        self.close_code = close_code
        self.reason = reason


class RunAborted(CmdcError):
    """A run was stopped before it had an answer; `transcript` is what there was of it."""

    def __init__(self, reason: str, transcript: Transcript) -> None:
        errors = "".join(f"; {error}" for error in transcript.errors)
        super().__init__(f"the run was stopped: {reason}{errors}")
        self.reason = reason
        self.transcript = transcript

    @property
    def request_id(self) -> str:
        return self.transcript.request_id
