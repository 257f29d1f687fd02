"""Decides whether and when a request or a stream is retried. Time and randomness are arguments."""

from __future__ import annotations

from collections.abc import Callable

from cmdc_client.config import Config
from cmdc_client.errors import (
    ApiError,
    CmdcError,
    ConnectionFailed,
    IdempotencyInProgress,
    ProtocolError,
    RateLimited,
    Unavailable,
)

_INITIAL_SECONDS = 0.25
_MAX_SECONDS = 10.0
_GATEWAY_STATUSES = (502, 503, 504)


class Backoff:
    """Exponential backoff with jitter: each delay is up to half shorter than its limit, so that clients spread out.

    `random` returns numbers from 0 to 1. `attempts` is the number of delays since the last reset.
    """

    def __init__(self, random: Callable[[], float], initial: float = _INITIAL_SECONDS) -> None:
        self._random = random
        self._initial = initial
        self.attempts = 0

    def next_delay(self, minimum: float | None) -> float:
        """Return the seconds to wait now, at least the `minimum` that the server asked for."""
        limit = min(_MAX_SECONDS, self._initial * 2 ** min(self.attempts, 20))
        self.attempts += 1
        return max(limit * (1 - self._random() / 2), minimum or 0.0)

    def set_initial(self, seconds: float) -> None:
        """Use the reconnection time that the server sent as the first delay."""
        self._initial = min(seconds, _MAX_SECONDS)


class RequestRetries:
    """The retries of one request."""

    def __init__(self, config: Config, random: Callable[[], float]) -> None:
        self._enabled = config.max_retries > 0
        self._left = config.max_retries
        self._seconds_left = config.reconnect_timeout
        self._backoff = Backoff(random)

    def delay_after(self, error: CmdcError) -> float:
        """Return the seconds to wait before the next attempt, or raise the error if there is none."""
        if not self._enabled or not is_transient(error):
            raise error
        # Where many clients share a key, a rate limit is normal, so it does not use up the retries.
        if not isinstance(error, RateLimited):
            if self._left <= 0:
                raise error
            self._left -= 1
        minimum = retry_after(error)
        if minimum is not None and minimum > self._seconds_left:
            raise error
        delay = self._backoff.next_delay(minimum)
        self._seconds_left -= delay
        return delay


def is_transient(error: CmdcError) -> bool:
    """Return whether a later attempt may succeed."""
    match error:
        case ConnectionFailed() | RateLimited() | Unavailable() | IdempotencyInProgress():
            return True
        case ProtocolError():  # a proxy in front of the server does not respond in the server's format
            return error.http_status in _GATEWAY_STATUSES
        case _:
            return False


def was_not_processed(error: CmdcError) -> bool:
    """Return whether the request certainly had no effect, so that any request may be repeated."""
    match error:
        case ConnectionFailed():
            return not error.sent
        case RateLimited():
            return True
        case _:
            return False


def retry_after(error: CmdcError) -> float | None:
    """Return the seconds that the server asked the client to wait, if it did."""
    return error.retry_after if isinstance(error, ApiError) else None
