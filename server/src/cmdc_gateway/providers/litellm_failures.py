"""What litellm raises, as a `ModelError`.

litellm's own classes and statuses mislead: a refused connection is its 500, and words in a message decide between 400
and 429. The truth is further down, in what the HTTP client underneath has raised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from json import JSONDecodeError

import httpx

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

# What litellm puts before a provider's own words.
_PREFIX = re.compile(r"(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?::| -)\s+|Timeout Error:\s+)+")


def model_error(error: Exception, secrets: Sequence[str] = ()) -> ModelError:
    """The failure to report for an exception of litellm's. `secrets` do not appear in its sentence."""
    causes = list(_causes(error))
    said = scrubbed(_PREFIX.sub("", str(causes[0]), count=1), secrets)
    for cause in causes:
        match cause:
            case httpx.HTTPStatusError(response=response):
                return rejected(response.status_code, _wait(response.headers.get("retry-after")), said)
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
                return ModelError(UNREACHABLE, transient=True)
            case httpx.TimeoutException():
                return ModelError(NO_ANSWER, transient=True)
            case httpx.TransportError():
                return ModelError(LOST, transient=True)
            case JSONDecodeError() | UnicodeDecodeError():
                return ModelError(NOT_AN_ANSWER)
            case _:
                pass
    status = getattr(causes[0], "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return rejected(status, None, said)
    if isinstance(causes[-1], TypeError | AttributeError | LookupError | ImportError):
        # A defect on this side, which litellm reports as a lost connection. Another try would meet it again.
        return ModelError(f"the model could not be asked: {said}")
    return ModelError(f"the model's provider failed: {said}", transient=True)


def _wait(retry_after: str | None) -> float | None:
    return seconds_to_wait(retry_after, time.time()) if retry_after else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, unwrapped, and what led to it."""
    # A stream that breaks comes wrapped once more, for litellm's own fallbacks.
    current: BaseException | None = getattr(error, "original_exception", None) or error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
