"""One timer for all open streams: it requests heartbeats and disconnects clients that do not read (SSE-3, SSE-10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

STALLED_AFTER_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class WatchedStream:
    """A stream as the timer sees it. Times are seconds of the event loop's `clock`.

    `writing_since` is set while a write waits for the client: the time at which it began, or at which the client was last
    seen to read. `buffered_bytes` returns how much is unsent.
    """

    wake: Callable[[], None]
    abort: Callable[[], None]
    buffered_bytes: Callable[[], int]
    clock: Callable[[], float]
    wrote_at: float
    heartbeat_due: bool = False
    writing_since: float | None = None
    unsent_before: int = 0

    def begin_write(self) -> None:
        """Record that a write begins, which may have to wait."""
        self.writing_since, self.unsent_before = self.clock(), self.buffered_bytes()

    def end_write(self) -> None:
        """Record that the write is complete."""
        self.writing_since = None
        self.note_write()

    def note_write(self) -> None:
        """Record a write that did not wait."""
        self.wrote_at, self.heartbeat_due = self.clock(), False


class Heartbeats:
    """Watches every open stream. One that makes no progress for `stalled_after` seconds is aborted."""

    def __init__(self, heartbeat_seconds: float, *, stalled_after: float = STALLED_AFTER_SECONDS) -> None:
        self._heartbeat = heartbeat_seconds
        self.stalled_after = stalled_after
        self._watched: set[WatchedStream] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, stream: WatchedStream) -> None:
        self._watched.add(stream)

    def unwatch(self, stream: WatchedStream) -> None:
        self._watched.discard(stream)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return len(self._watched)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            interval = min(1.0, self._heartbeat / 4, self.stalled_after / 4)
            await asyncio.sleep(interval)
            self._check_all(loop.time(), interval)

    def _check_all(self, now: float, interval: float) -> None:
        # A separate function, because a loop variable in `_run` would keep the last stream alive during the sleep.
        for stream in list(self._watched):
            if stream.writing_since is not None:
                self._check_progress(stream, now)
            elif now - stream.wrote_at >= self._heartbeat - interval and not stream.heartbeat_due:
                stream.heartbeat_due = True
                stream.wake()

    def _check_progress(self, stream: WatchedStream, now: float) -> None:
        assert stream.writing_since is not None, "only a stream that is writing is checked"
        unsent = stream.buffered_bytes()
        if unsent < stream.unsent_before:  # the client is slow, but it reads
            stream.writing_since = now
        elif now - stream.writing_since >= self.stalled_after:
            stream.abort()
        stream.unsent_before = unsent
