"""One timer for all open streams: it says when a heartbeat is due, and ends connections that do not read (SSE-10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

STALLED_AFTER_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class WatchedStream:
    """One stream, as its timer sees it. Times are of the event loop's `clock`, in seconds.

    `writing_since` is set while a write waits for the peer: when it began, or when the peer was last seen to take
    something. `buffered` tells how many bytes it has yet to take.
    """

    wake: Callable[[], None]
    abort: Callable[[], None]
    buffered: Callable[[], int]
    clock: Callable[[], float]
    wrote_at: float
    due: bool = False
    writing_since: float | None = None
    left_before: int = 0

    def begin(self) -> None:
        """A write begins."""
        self.writing_since, self.left_before = self.clock(), self.buffered()

    def end(self) -> None:
        """The write is done."""
        self.writing_since = None
        self.written()

    def written(self) -> None:
        """Something was written, without waiting."""
        self.wrote_at, self.due = self.clock(), False


class Heartbeats:
    """Looks after every open stream. `stalled_after` is how many seconds one may stay without progress."""

    def __init__(self, heartbeat_seconds: float, *, stalled_after: float = STALLED_AFTER_SECONDS) -> None:
        self._heartbeat = heartbeat_seconds
        self.stalled_after = stalled_after
        self._beats: set[WatchedStream] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, beat: WatchedStream) -> None:
        self._beats.add(beat)

    def unwatch(self, beat: WatchedStream) -> None:
        self._beats.discard(beat)

    @property
    def streams(self) -> int:
        return len(self._beats)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            interval = min(1.0, self._heartbeat / 4, self.stalled_after / 4)
            await asyncio.sleep(interval)
            self._look_after_all(loop.time(), interval)

    def _look_after_all(self, now: float, interval: float) -> None:
        # In a function of its own: the loop's variable would keep the last stream alive through the sleep.
        for beat in list(self._beats):
            if beat.writing_since is not None:
                self._check_progress(beat, now)
            elif now - beat.wrote_at >= self._heartbeat - interval and not beat.due:
                beat.due = True
                beat.wake()

    def _check_progress(self, beat: WatchedStream, now: float) -> None:
        assert beat.writing_since is not None, "asked about while it writes"
        left = beat.buffered()
        if left < beat.left_before:  # slow, but it reads
            beat.writing_since = now
        elif now - beat.writing_since >= self.stalled_after:
            beat.abort()
        beat.left_before = left
