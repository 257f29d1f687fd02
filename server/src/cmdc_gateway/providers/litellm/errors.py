"""Exceptions of litellm, as `ModelError`.

litellm's own classes and statuses are unreliable: it reports a refused connection as status 500, and distinguishes 400
from 429 by words in a message. Therefore the cause decides, which is an exception of the HTTP client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from json import JSONDecodeError

import httpx

from cmdc_gateway.providers.errors import (
    CONNECTION_LOST,
    INVALID_RESPONSE,
    TIMED_OUT,
    UNREACHABLE,
    redact,
    status_error,
)
from cmdc_gateway.providers.provider import ModelError

# What litellm prepends to a provider's message.
_PREFIX = re.compile(r"(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?::| -)\s+|Timeout Error:\s+)+")


def model_error(error: Exception, secrets: Sequence[str] = ()) -> ModelError:
    """The error to report for an exception of litellm. Its message contains none of the `secrets`."""
    chain = list(_cause_chain(error))
    detail = redact(_PREFIX.sub("", str(chain[0]), count=1), secrets)
    for cause in chain:
        if (known := _http_error(cause, detail)) is not None:
            return known
    status = getattr(chain[0], "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status_error(status, None, detail)
    if isinstance(chain[-1], TypeError | AttributeError | LookupError | ImportError):
        # A defect of the gateway or of litellm, which litellm reports as a lost connection. A retry would fail again.
        return ModelError(f"the model could not be called: {detail}")
    return ModelError(f"the model's provider failed: {detail}", transient=True)


def _http_error(cause: BaseException, detail: str) -> ModelError | None:
    match cause:
        case httpx.HTTPStatusError(response=response):
            return status_error(response.status_code, response.headers.get("retry-after"), detail)
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return ModelError(UNREACHABLE, transient=True)
        case httpx.TimeoutException():
            return ModelError(TIMED_OUT, transient=True)
        case httpx.TransportError():
            return ModelError(CONNECTION_LOST, transient=True)
        case JSONDecodeError() | UnicodeDecodeError():
            return ModelError(INVALID_RESPONSE)
        case _:
            return None


def _cause_chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, the direct one first."""
    # litellm wraps the exception of a broken stream once more.
    current: BaseException | None = getattr(error, "original_exception", None) or error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
