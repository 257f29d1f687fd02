"""One exception class per error code of the protocol. Written by `nox -s contract`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cmdc_client.base_errors import ApiError


class BadRequest(ApiError):
    """The request is not understood: malformed JSON, an unknown field, a wrong value."""

    expected_status = 400


class InvalidCursor(ApiError):
    """A cursor that is malformed, or that names an event which has not happened yet."""

    expected_status = 400


class Unauthorized(ApiError):
    """No key or ticket, or not a valid one."""

    expected_status = 401


class BudgetExceeded(ApiError):
    """The session's budget, the key's or the tenant's is spent."""

    expected_status = 402


class Forbidden(ApiError):
    """A `read` ticket was used to act, or an origin is not allowed."""

    expected_status = 403


class NotFound(ApiError):
    """There is nothing of that name, or it belongs to another tenant."""

    expected_status = 404


class SessionDead(ApiError):
    """The session exists, but its stored state cannot be loaded; its events stay readable where they can be."""

    expected_status = 404


class MethodNotAllowed(ApiError):
    """The path exists, with other methods."""

    expected_status = 405


class RequestTimeout(ApiError):
    """The client took too long to send its request."""

    expected_status = 408


class AlreadyResolved(ApiError):
    """The approval or question was decided otherwise, has expired or was cancelled."""

    expected_status = 409

    @property
    def status(self) -> str:
        """What was decided."""
        return self._text_member("status")


class DigestMismatch(ApiError):
    """The digest sent along is not that of the call which waits; nothing was decided."""

    expected_status = 409


class IdempotencyInProgress(ApiError):
    """The first request with this Idempotency-Key has not been answered yet."""

    expected_status = 409


class SessionExists(ApiError):
    """This tenant has a session of that id."""

    expected_status = 409


class CursorExpired(ApiError):
    """The cursor is of another log, or what follows it has been trimmed."""

    expected_status = 410

    @property
    def earliest(self) -> str:
        """The log can be read after this."""
        return self._text_member("earliest")

    @property
    def latest(self) -> str:
        """The end of the log."""
        return self._text_member("latest")


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
    """The session cannot be made like this; the message lists what is offered."""

    expected_status = 422


class IdempotencyMismatch(ApiError):
    """This Idempotency-Key was used with another body."""

    expected_status = 422


class RegistrationFailed(ApiError):
    """The tool cannot be registered like this."""

    expected_status = 422


class UpgradeRequired(ApiError):
    """A plain request to the address of the WebSocket."""

    expected_status = 426


class QueueFull(ApiError):
    """As many prompts wait in this session as may wait."""

    expected_status = 429


class RateLimited(ApiError):
    """Too many requests with this key, or too many frames on this WebSocket."""

    expected_status = 429


class HeadersTooLarge(ApiError):
    """The header block is larger than this server takes."""

    expected_status = 431


class Internal(ApiError):
    """A defect of the server; the message has an id that stands in its log too."""

    expected_status = 500


class Unavailable(ApiError):
    """The server is stopping, or its store does not answer; nothing was done."""

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
