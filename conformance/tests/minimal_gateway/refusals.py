"""Every way to say no: a code, a sentence, and what goes with it."""

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


class Refusal(Exception):
    """What is asked for is not done. `members` stand in the body beside code and sentence."""

    def __init__(self, code: str, sentence: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = STATUS[code]
        self.headers = headers or {}
        self.body = {"error": code, "message": sentence, **members}


def wrong(sentence: str) -> Refusal:
    """The request is not understood."""
    return Refusal("bad_request", sentence)


def encoded(value: object) -> bytes:
    """JSON on one line, also for whoever takes U+2028 for the end of one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for breaker in "\u0085\u2028\u2029":
        text = text.replace(breaker, f"\\u{ord(breaker):04x}")
    return text.encode()
