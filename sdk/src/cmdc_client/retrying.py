"""When a request, or a stream, is tried again, and after how long. No clock and no chance of its own."""

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

_FIRST = 0.25
_LONGEST = 10.0
_GATEWAY_STATUSES = (502, 503, 504)


class Backoff:
    """Waiting times that double, each shortened by chance up to its half, so that clients do not come in step.

    `chance` gives numbers from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float], first: float = _FIRST) -> None:
        self._chance = chance
        self._first = first
        self.tries = 0

    def next(self, at_least: float | None) -> float:
        """Seconds to wait now; never less than the server asked for."""
        longest = min(_LONGEST, self._first * 2 ** min(self.tries, 20))
        self.tries += 1
        return max(longest * (1 - self._chance() / 2), at_least or 0.0)

    def begin_at(self, first: float) -> None:
        """Take over the reconnection time that the server asks for."""
        self._first = min(first, _LONGEST)


class Retries:
    """The tries of one request."""

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        self._retrying = config.max_retries > 0
        self._left = config.max_retries
        self._patience = config.patience
        self._backoff = Backoff(chance)

    def after(self, failure: CmdcError) -> float:
        """Seconds to wait before the next try. Raises the failure where there is to be none."""
        if not self._retrying or not transient(failure):
            raise failure
        if not isinstance(failure, RateLimited):  # where many share a key, waiting one's turn is no sign of a fault
            if self._left <= 0:
                raise failure
            self._left -= 1
        asked = retry_after(failure)
        if asked is not None and asked > self._patience:
            raise failure
        delay = self._backoff.next(asked)
        self._patience -= delay
        return delay


def transient(failure: CmdcError) -> bool:
    """Whether it may go well the next time: the line was lost, or the server asks to come back later."""
    match failure:
        case ConnectionFailed() | RateLimited() | Unavailable() | IdempotencyInProgress():
            return True
        case ProtocolError():  # what stands before the server says in its own words that there is none now
            return failure.http_status in _GATEWAY_STATUSES
        case ApiError():
            return False
        case _:
            return False


def undone(failure: CmdcError) -> bool:
    """Whether the request surely had no effect, so that it may be sent again whatever it was."""
    match failure:
        case ConnectionFailed():
            return not failure.sent
        case RateLimited():
            return True
        case _:
            return False


def retry_after(failure: CmdcError) -> float | None:
    """The seconds that the server asked to wait."""
    return failure.refusal.retry_after if isinstance(failure, ApiError) else None
