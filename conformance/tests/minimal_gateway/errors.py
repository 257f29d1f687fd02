"""Error responses: code, message and additional members."""

from __future__ import annotations

import json
from typing import Any

STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "already_resolved": 409,
    "session_exists": 409,
    "payload_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "create_failed": 422,
    "registration_failed": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "queue_full": 429,
    "headers_too_large": 431,
    "internal": 500,
    "unavailable": 503,
}


class ApiError(Exception):
    """A request fails with this error. `members` are added to the body."""

    def __init__(self, code: str, sentence: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = STATUS[code]
        self.headers = headers or {}
        self.body = {"error": code, "message": sentence, **members}


def bad_request(sentence: str) -> ApiError:
    """A 400 error."""
    return ApiError("bad_request", sentence)


def encode(value: object) -> bytes:
    """Encode JSON on one line, with U+2028 and similar characters escaped, which some parsers treat as line ends."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for breaker in "\u0085\u2028\u2029":
        text = text.replace(breaker, f"\\u{ord(breaker):04x}")
    return text.encode()
