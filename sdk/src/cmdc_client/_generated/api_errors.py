"""One exception class per error code of the protocol. Written by `nox -s contract`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cmdc_client.base_errors import ApiError


class BadRequest(ApiError):
    """The request is invalid: malformed JSON, an unknown field, or an invalid value."""

    expected_status = 400


class InvalidCursor(ApiError):
    """The cursor is malformed or names an event in the future."""

    expected_status = 400


class Unauthorized(ApiError):
    """The API key or ticket is missing or invalid."""

    expected_status = 401


class BudgetExceeded(ApiError):
    """The budget of the session, the key, or the tenant is exhausted."""

    expected_status = 402


class Forbidden(ApiError):
    """A `read` ticket was used for an action, or the origin is not allowed."""

    expected_status = 403


class NotFound(ApiError):
    """The resource does not exist or belongs to another tenant."""

    expected_status = 404


class SessionDead(ApiError):
    """The stored state of the session cannot be loaded; its event log stays readable where possible."""

    expected_status = 404


class MethodNotAllowed(ApiError):
    """The path does not support this method."""

    expected_status = 405


class RequestTimeout(ApiError):
    """The client took too long to send the request."""

    expected_status = 408


class AlreadyResolved(ApiError):
    """The approval or question already has a different decision, expired, or was cancelled."""

    expected_status = 409

    @property
    def status(self) -> str:
        """The decision that applies."""
        return self._text_member("status")


class DigestMismatch(ApiError):
    """The digest does not match the pending call; nothing was decided."""

    expected_status = 409


class IdempotencyInProgress(ApiError):
    """The first request with this Idempotency-Key is still in progress."""

    expected_status = 409


class SessionExists(ApiError):
    """The tenant already has a session with this ID."""

    expected_status = 409


class CursorExpired(ApiError):
    """The cursor belongs to another log, or the events after it were trimmed."""

    expected_status = 410

    @property
    def earliest(self) -> str:
        """The cursor just before the first kept event."""
        return self._text_member("earliest")

    @property
    def latest(self) -> str:
        """The cursor at the end of the log."""
        return self._text_member("latest")


class PayloadTooLarge(ApiError):
    """The body exceeds the size limit."""

    expected_status = 413


class UriTooLong(ApiError):
    """The URL exceeds the size limit."""

    expected_status = 414


class UnsupportedMediaType(ApiError):
    """The Content-Type of the body is not JSON in UTF-8."""

    expected_status = 415


class CreateFailed(ApiError):
    """The session cannot be created with these settings; the message lists the available names."""

    expected_status = 422


class IdempotencyMismatch(ApiError):
    """The Idempotency-Key was used before with a different body."""

    expected_status = 422


class RegistrationFailed(ApiError):
    """The tool cannot be registered with these values."""

    expected_status = 422


class UpgradeRequired(ApiError):
    """The request to the WebSocket endpoint did not ask for an upgrade."""

    expected_status = 426


class QueueFull(ApiError):
    """The prompt queue of the session is full."""

    expected_status = 429


class RateLimited(ApiError):
    """Too many requests with this key, or too many messages on this WebSocket."""

    expected_status = 429


class HeadersTooLarge(ApiError):
    """The headers exceed the size limit or the number of fields."""

    expected_status = 431


class Internal(ApiError):
    """An internal error; the message contains an ID that the server's log has too."""

    expected_status = 500


class Unavailable(ApiError):
    """The server is stopping, or its store is unavailable; nothing was done."""

    expected_status = 503


ERRORS_BY_CODE: Final[Mapping[str, type[ApiError]]] = {
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
    "idempotency_in_progress": IdempotencyInProgress,
    "session_exists": SessionExists,
    "cursor_expired": CursorExpired,
    "payload_too_large": PayloadTooLarge,
    "uri_too_long": UriTooLong,
    "unsupported_media_type": UnsupportedMediaType,
    "create_failed": CreateFailed,
    "idempotency_mismatch": IdempotencyMismatch,
    "registration_failed": RegistrationFailed,
    "upgrade_required": UpgradeRequired,
    "queue_full": QueueFull,
    "rate_limited": RateLimited,
    "headers_too_large": HeadersTooLarge,
    "internal": Internal,
    "unavailable": Unavailable,
}
