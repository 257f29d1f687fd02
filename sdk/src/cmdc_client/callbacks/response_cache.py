"""Caches the responses to calls, so that a call which is sent again is not run again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

MAX_RESPONSES = 4096
MAX_BYTES = 32 * 1024 * 1024

Key = tuple[str, bytes]
"""The id of a call and the digest of its body."""


@dataclass(frozen=True, slots=True)
class Response:
    """A status and a JSON body."""

    status: int
    body: bytes


class ResponseCache:
    """The calls that are running, and the responses of those that have finished. It is thread-safe.

    A response is kept for `seconds`, after which the timestamp of its call is stale. Beyond `max_responses` or
    `max_bytes`, the oldest responses are evicted first. Running calls are never evicted.
    """

    def __init__(
        self,
        seconds: float,
        *,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._clock = clock
        self._running: dict[Key, Future[Response]] = {}
        self._finished: OrderedDict[Key, tuple[float, Response]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    def claim(self, key: Key) -> tuple[bool, Future[Response]]:
        """Return whether the call is new, and its future response.

        The caller that claims a new call must run it, and then call `complete` or `abandon`.
        """
        with self._lock:
            self._evict()
            if (running := self._running.get(key)) is not None:
                return False, running
            response: Future[Response] = Future()
            response.set_running_or_notify_cancel()  # a caller that stops waiting must not cancel it for the others
            if (finished := self._finished.get(key)) is not None:
                response.set_result(finished[1])
                return False, response
            self._running[key] = response
            return True, response

    def complete(self, key: Key, response: Response) -> None:
        """Respond to all callers that wait for this call, and to those that repeat it later."""
        with self._lock:
            waiting = self._running.pop(key)
            self._finished[key] = (self._clock(), response)
            self._bytes += len(response.body)
            self._evict()
        waiting.set_result(response)

    def abandon(self, key: Key, response: Response) -> None:
        """Respond to all callers that wait for this call, and let it be run again if it is repeated."""
        with self._lock:
            waiting = self._running.pop(key)
        waiting.set_result(response)

    def _evict(self) -> None:
        oldest = self._clock() - self._seconds
        while self._finished:
            at, response = next(iter(self._finished.values()))
            if at > oldest and len(self._finished) <= self._max_responses and self._bytes <= self._max_bytes:
                return
            self._finished.popitem(last=False)
            self._bytes -= len(response.body)
