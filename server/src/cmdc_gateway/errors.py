"""The errors of the API, one class per code.

A class has its public code (HTTP-2), a message that names the offending value, and the extra members of its error body.
`web/errors.py` maps the classes to HTTP statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import JsonValue


class GatewayError(Exception):
    """A request was rejected, or could not be completed."""

    code: ClassVar[str]

    @property
    def message(self) -> str:
        return str(self)

    def members(self) -> dict[str, JsonValue]:
        """The members of the error body besides `error` and `message`."""
        return {}


class BadRequest(GatewayError):
    """The request is invalid: malformed JSON, an unknown field, or an invalid value.

    `details` lists the validation errors as pairs of a path into the body and a message.
    """

    code = "bad_request"

    def __init__(self, message: str, details: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)

    def members(self) -> dict[str, JsonValue]:
        return {"details": [{"path": path, "message": text} for path, text in self.details]} if self.details else {}


class InvalidCursor(GatewayError):
    """The cursor is malformed or names an event in the future (SSE-7)."""

    code = "invalid_cursor"


class Unauthorized(GatewayError):
    """The API key or ticket is missing or invalid (HTTP-7)."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("a valid API key is required: send X-API-Key: KEY or Authorization: Bearer KEY")


class Forbidden(GatewayError):
    """A `read` ticket was used for an action, or the origin is not allowed."""

    code = "forbidden"


class BudgetExceeded(GatewayError):
    """The budget of the session, the key, or the tenant is exhausted (MTR-2)."""

    code = "budget_exceeded"


class NotFound(GatewayError):
    """The resource does not exist or belongs to another tenant (HTTP-8)."""

    code = "not_found"


class SessionNotFound(NotFound):
    """The tenant has no session with this id."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id!r}")


class RequestNotFound(NotFound):
    """The session has no request with this requestId."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no request {request_id!r} in this session")


class ApprovalNotFound(NotFound):
    """The session never had an approval with this approvalId."""

    def __init__(self, approval_id: str) -> None:
        super().__init__(f"no approval {approval_id!r} in this session")


class QuestionNotFound(NotFound):
    """The session never had a question with this ref."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"no question {ref!r} in this session")


class ToolNotFound(NotFound):
    """The session has no callback tool of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no callback tool {name!r} in this session")


class SessionDead(GatewayError):
    """The stored state of the session cannot be loaded; its event log stays readable where possible."""

    code = "session_dead"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the stored state of session {session_id!r} cannot be loaded by this server")


class MethodNotAllowed(GatewayError):
    """The path does not support this method (HTTP-6)."""

    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method} is not allowed for {path}; allowed: {', '.join(allowed)}")
        self.allowed = tuple(allowed)


class RequestTimeout(GatewayError):
    """The client took too long to send the request (HTTP-5)."""

    code = "request_timeout"

    def __init__(self, part: str) -> None:
        super().__init__(f"the {part} did not arrive in time")


class AlreadyResolved(GatewayError):
    """The approval or question already has a different decision, expired, or was cancelled (APP-2, ASK-1).

    `status` is that decision.
    """

    code = "already_resolved"

    def __init__(self, subject: str, status: str) -> None:
        super().__init__(f"{subject} is already {status}")
        self.status = status

    def members(self) -> dict[str, JsonValue]:
        return {"status": self.status}


class DigestMismatch(GatewayError):
    """The digest does not match the pending call; nothing was decided (APP-3)."""

    code = "digest_mismatch"

    def __init__(self, approval_id: str) -> None:
        super().__init__(f"the digest does not match the call of approval {approval_id!r}; nothing was decided")


class SessionExists(GatewayError):
    """The tenant already has a session with this ID."""

    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} already exists")


class IdempotencyInProgress(GatewayError):
    """The first request with this Idempotency-Key is still in progress (HTTP-11)."""

    code = "idempotency_in_progress"

    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is still in progress; retry later")


class CursorExpired(GatewayError):
    """The cursor belongs to another log, or the events after it were trimmed (SSE-7)."""

    code = "cursor_expired"

    def __init__(self, cursor: str, earliest: str, latest: str) -> None:
        super().__init__(f"cursor {cursor!r} has expired; the log can be read after {earliest!r}")
        self.earliest = earliest
        self.latest = latest

    def members(self) -> dict[str, JsonValue]:
        return {"earliest": self.earliest, "latest": self.latest}


class PayloadTooLarge(GatewayError):
    """The body exceeds the size limit (HTTP-5). `limit` is in bytes."""

    code = "payload_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is longer than {limit} bytes")


class UriTooLong(GatewayError):
    """The URL exceeds the size limit (HTTP-5). `limit` is in bytes."""

    code = "uri_too_long"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the URL is longer than {limit} bytes")


class HeadersTooLarge(GatewayError):
    """The headers exceed the size limit or the number of fields (HTTP-5)."""

    code = "headers_too_large"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UnsupportedMediaType(GatewayError):
    """The Content-Type of the body is not JSON in UTF-8 (HTTP-3)."""

    code = "unsupported_media_type"

    def __init__(self, content_type: str) -> None:
        sent = f"not {content_type!r}" if content_type else "and no Content-Type was sent"
        super().__init__(f"the body must be sent as Content-Type: application/json (UTF-8), {sent}")


class CreateFailed(GatewayError):
    """The session cannot be created with these settings; the message lists the available names."""

    code = "create_failed"


class RegistrationFailed(GatewayError):
    """The tool cannot be registered with these values (CB-1)."""

    code = "registration_failed"


class IdempotencyMismatch(GatewayError):
    """The Idempotency-Key was used before with a different body (HTTP-11)."""

    code = "idempotency_mismatch"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was already used with another body; use a new key")


class UpgradeRequired(GatewayError):
    """The request to the WebSocket endpoint did not ask for an upgrade."""

    code = "upgrade_required"

    def __init__(self) -> None:
        super().__init__("this is a WebSocket endpoint: send an Upgrade request, or read …/events")


class RateLimited(GatewayError):
    """Too many requests with this key, or too many messages on this WebSocket (HTTP-9, WS-7).

    `retry_after` is in whole seconds.
    """

    code = "rate_limited"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests; try again in {retry_after} s")
        self.retry_after = retry_after

    def members(self) -> dict[str, JsonValue]:
        return {"retryAfter": self.retry_after}


class QueueFull(GatewayError):
    """The prompt queue of the session is full. `limit` is the maximum number of queued prompts."""

    code = "queue_full"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the queue of this session is full ({limit} prompts); retry when a run has ended")


class Internal(GatewayError):
    """An internal error; the message contains an ID that the server's log has too. `incident` is that ID."""

    code = "internal"

    def __init__(self, incident: str) -> None:
        super().__init__(f"internal error; see incident {incident} in the server's log")


class Unavailable(GatewayError):
    """The server is stopping, or its store is unavailable; nothing was done. `retry_after` is in whole seconds."""

    code = "unavailable"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
