"""What goes wrong between us and a model that is reached directly, as a `ModelError`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

from cmdc_gateway.providers.failures import (
    LOST,
    NO_ANSWER,
    NOT_AN_ANSWER,
    UNREACHABLE,
    rejected,
    scrubbed,
    seconds_to_wait,
)
from cmdc_gateway.providers.provider import ModelError


def model_error(error: Exception) -> ModelError:
    """The failure to report for an exception on the way there or back."""
    import aiohttp  # noqa: PLC0415 - loaded with the first model that is reached so; see `pool`

    match error:
        case ModelError():
            return error
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return ModelError(UNREACHABLE, transient=True)
        case TimeoutError():
            return ModelError(NO_ANSWER, transient=True)
        case aiohttp.ClientResponseError() | ValueError():
            return ModelError(NOT_AN_ANSWER)
        case aiohttp.ClientError() | OSError():
            return ModelError(LOST, transient=True)
        case _:
            raise error


def rejection_error(status: int, retry_after: str | None, body: bytes, secrets: Sequence[str]) -> ModelError:
    """The failure to report for an answer with a status that is none of success."""
    wait = seconds_to_wait(retry_after, time.time()) if retry_after else None
    return rejected(status, wait, scrubbed(_message_of_body(body), secrets))


def stream_error(error: Any, secrets: Sequence[str]) -> ModelError:
    """The failure to report for an error that came inside an answer."""
    status = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    said = scrubbed(_message(error), secrets)
    if isinstance(status, int) and 400 <= status < 500:
        return rejected(status, None, said)
    return ModelError(f"the model's provider failed: {said}", transient=True)


def _message_of_body(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        data = json.loads(text)
    except ValueError:
        return "" if "<" in text else text  # a page for people says nothing in one line
    return _message(cast("dict[str, Any]", data).get("error", data) if isinstance(data, dict) else data)


def _message(error: Any) -> str:
    if isinstance(error, dict):
        details = cast("dict[str, Any]", error)
        return str(details.get("message") or details)
    return str(error)
