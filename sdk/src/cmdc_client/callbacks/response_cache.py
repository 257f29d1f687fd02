"""What was answered to which call, so that a call that comes again is answered again, and not run again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

MAX_ANSWERS = 4096
MAX_BYTES = 32 * 1024 * 1024

Key = tuple[str, bytes]
"""A call's id and the digest of its body."""


@dataclass(frozen=True, slots=True)
class Response:
    """A status and a JSON body."""

    status: int
    body: bytes


class Memory:
    """Calls that run, and the answers of those that have ended: for so many seconds, and no more than so many.

    Beyond that the oldest are forgotten first, for a call can come again only until its timestamp has become stale. Calls
    that run are never forgotten. Threads and event loops may share it.
    """

    def __init__(
        self,
        seconds: float,
        *,
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._clock = clock
        self._running: dict[Key, Future[Response]] = {}
        self._ended: OrderedDict[Key, tuple[float, Response]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def claim(self, key: Key) -> tuple[Literal["new", "known"], Future[Response]]:
        """The answer to this call, which may be still to come. If it is `new`, whoever has asked has to give it."""
        with self._lock:
            self._forget_old()
            if (running := self._running.get(key)) is not None:
                return "known", running
            answer: Future[Response] = Future()
            answer.set_running_or_notify_cancel()  # those who wait for it come and go, and must not cancel it
            if (ended := self._ended.get(key)) is not None:
                answer.set_result(ended[1])
                return "known", answer
            self._running[key] = answer
            return "new", answer

    def settle(self, key: Key, response: Response) -> None:
        """Answer a call, to all who wait, and to those who come later."""
        with self._lock:
            answer = self._running.pop(key)
            self._ended[key] = (self._clock(), response)
            self._bytes += len(response.body)
            self._forget_old()
        answer.set_result(response)

    def drop(self, key: Key, response: Response) -> None:
        """Answer a call that did not come to its end, and forget that it was there."""
        with self._lock:
            answer = self._running.pop(key)
        answer.set_result(response)

    def _forget_old(self) -> None:
        deadline = self._clock() - self._seconds
        while self._ended:
            at, response = next(iter(self._ended.values()))
            if at > deadline and len(self._ended) <= self._max_answers and self._bytes <= self._max_bytes:
                return
            self._ended.popitem(last=False)
            self._bytes -= len(response.body)
