"""Errors of HTTP and of the Chat Completions API, as `ModelError`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from cmdc_gateway.providers.errors import (
    CONNECTION_LOST,
    INVALID_RESPONSE,
    TIMED_OUT,
    UNREACHABLE,
    redact,
    status_error,
)
from cmdc_gateway.providers.provider import ModelError


def model_error(error: Exception) -> ModelError:
    """The error to report for an exception during a call. Re-raises an exception that is a defect of the gateway."""
    import aiohttp  # noqa: PLC0415 - imported with the first request; see `pool`

    match error:
        case ModelError():
            return error
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return ModelError(UNREACHABLE, transient=True)
        case TimeoutError():
            return ModelError(TIMED_OUT, transient=True)
        case aiohttp.ClientResponseError() | ValueError():
            return ModelError(INVALID_RESPONSE)
        case aiohttp.ClientError() | OSError():
            return ModelError(CONNECTION_LOST, transient=True)
        case _:
            raise error


def response_error(status: int, retry_after: str | None, body: bytes, secrets: Sequence[str]) -> ModelError:
    """The error to report for a response with an error status."""
    return status_error(status, retry_after, redact(_message_in_body(body), secrets))


def stream_error(error: Any, secrets: Sequence[str]) -> ModelError:
    """The error to report for an `error` member in a stream."""
    status = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    detail = redact(_message(error), secrets)
    if isinstance(status, int) and 400 <= status < 500:
        return status_error(status, None, detail)
    return ModelError(f"the model's provider failed: {detail}", transient=True)


def _message_in_body(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        data = json.loads(text)
    except ValueError:
        return "" if "<" in text else text  # an HTML page is not a message
    return _message(cast("dict[str, Any]", data).get("error", data) if isinstance(data, dict) else data)


def _message(error: Any) -> str:
    if isinstance(error, dict):
        details = cast("dict[str, Any]", error)
        return str(details.get("message") or details)
    return str(error)
