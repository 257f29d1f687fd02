"""What litellm raises, as a `ModelError`.

litellm's own classes and statuses mislead: a refused connection is its 500, and words in a message decide between 400
and 429. The truth is further down, in what the HTTP client underneath has raised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from json import JSONDecodeError

import httpx

from cmdc_gateway.providers.failures import is_transient, refusal, scrubbed
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
                return _refused(response.status_code, response.headers.get("retry-after"), said)
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
                return ModelError("the model's provider could not be reached", transient=True)
            case httpx.TimeoutException():
                return ModelError("the model's provider did not answer in time", transient=True)
            case httpx.TransportError():
                return ModelError("the connection to the model's provider was lost", transient=True)
            case JSONDecodeError() | UnicodeDecodeError():
                return ModelError("the model's provider sent something that is not an answer")
            case _:
                pass
    status = getattr(causes[0], "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return _refused(status, None, said)
    if isinstance(causes[-1], TypeError | AttributeError | LookupError | ImportError):
        # A defect on this side, which litellm reports as a lost connection. Another try would meet it again.
        return ModelError(f"the model could not be asked: {said}")
    return ModelError(f"the model's provider failed: {said}", transient=True)


def _refused(status: int, retry_after: str | None, said: str) -> ModelError:
    if status == 401:
        # What a provider says to this has parts of the key in it, and no reader can do anything about it.
        said = "it does not accept the server's credentials"
    return ModelError(
        refusal(status, said),
        transient=is_transient(status),
        retry_after=seconds_to_wait(retry_after, time.time()) if retry_after else None,
    )


def seconds_to_wait(retry_after: str, now: float) -> float | None:
    """What a Retry-After header asks for: seconds, or a date. None if it is neither."""
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, unwrapped, and what led to it."""
    # A stream that breaks comes wrapped once more, for litellm's own fallbacks.
    current: BaseException | None = getattr(error, "original_exception", None) or error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
