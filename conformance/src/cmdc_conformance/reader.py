"""Readers of a session's events: whatever the transport, a list that grows, to be waited on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from cmdc_conformance.evidence import Evidence
from cmdc_conformance.findings import Blocked, Unreadable
from cmdc_conformance.monitors import Event, Monitors, Transport


class Watch:
    """What a reader tells of what it reads: to the evidence, and to the monitors under the check that is under way."""

    def __init__(self, monitors: Monitors, report: Callable[[str, str], None], evidence: Evidence) -> None:
        self.monitors = monitors
        self.report = report
        self.evidence = evidence


class Reader:
    """The events that one connection brings, in order. `deadline` is how long, in seconds, one wait may take.

    `filtered` says that events are left out on purpose; `whole` that the first one is the first of a run.
    """

    transport: Transport = "sse"
    via: str = "raw"

    def __init__(self, watch: Watch, key: str, *, deadline: float, filtered: bool = False, whole: bool = True) -> None:
        self.events: list[Event] = []
        self.ended = False
        self.failure: str | None = None
        self.unreadable = False
        self._watch = watch
        self._key = key
        self._deadline = deadline
        self._filtered = filtered
        self._whole = whole
        self._run: list[Event] = []
        self._changed = asyncio.Condition()
        self._pumping: asyncio.Task[None] | None = None

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def until(self, name: str, *, nth: int = 1, after: int = 0) -> Event:
        """The nth event of this name, counted from a place in the list. Raises Blocked when it does not come."""

        def found() -> Event | None:
            those = [event for event in self.events[after:] if event.name == name]
            return those[nth - 1] if len(those) >= nth else None

        await self.wait(lambda: found() is not None, f"no {name} came")
        event = found()
        assert event is not None
        return event

    async def count(self, number: int) -> Sequence[Event]:
        """The first so many events."""
        await self.wait(lambda: len(self.events) >= number, f"{number} events did not come")
        return self.events[:number]

    async def end(self, *, after: int = 0) -> list[Event]:
        """The events up to the first terminal one, from a place in the list on."""

        def terminal() -> int | None:
            return next((index for index, event in enumerate(self.events[after:], after) if event.is_terminal), None)

        await self.wait(lambda: terminal() is not None, "no terminal event came")
        index = terminal()
        assert index is not None
        return self.events[after : index + 1]

    async def closed(self, *, within: float | None = None) -> list[Event]:
        """All events, once the connection has ended."""
        await self.wait(lambda: self.ended, "the stream did not end", within=within, may_end=True)
        return self.events

    async def wait(
        self, come: Callable[[], bool], otherwise: str, *, within: float | None = None, may_end: bool = False
    ) -> None:
        """Wait until something is so. Raises Blocked at the deadline, or when the connection has ended without it."""
        try:
            async with asyncio.timeout(within or self._deadline), self._changed:
                await self._changed.wait_for(lambda: come() or (self.ended and not may_end))
        except TimeoutError:
            raise Blocked(f"{otherwise} within {within or self._deadline:g} s; {self._told()}") from None
        if not come():
            ended = Unreadable if self.unreadable else Blocked
            raise ended(f"{otherwise}: the connection ended; {self._told()}")

    def _told(self) -> str:
        names = [event.name for event in self.events[-6:]]
        said = f"the last events were {', '.join(names)}" if names else "no event came"
        return f"{said}{f' ({self.failure})' if self.failure else ''}"

    # -- being fed -----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to read, in a task of its own."""
        self._pumping = asyncio.create_task(self._pump())
        return self

    async def close(self) -> None:
        """Stop reading."""
        if self._pumping is not None:
            self._pumping.cancel()
            with suppress(asyncio.CancelledError):
                await self._pumping

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _pump(self) -> None:
        try:
            await self._read()
        except asyncio.CancelledError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever ends the connection is told to whoever waits
            self.failure = f"{type(failure).__name__}: {failure}"[:300]
        finally:
            self.ended = True
            await self._tell()

    async def _read(self) -> None:
        raise NotImplementedError

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def take(self, event: Event) -> None:
        """One more event has come."""
        watch = self._watch
        watch.evidence.note(f"← {self.transport} {event}")
        watch.monitors.event(watch.report, self._key, event, self.transport, self.via)
        if self.via == "raw" and not self._filtered:
            watch.monitors.order(watch.report, self.events[-1].id if self.events else None, event)
        self.events.append(event)
        if not self._filtered:
            self._take_into_run(event)
        await self._tell()

    def _take_into_run(self, event: Event) -> None:
        watch = self._watch
        over = bool(self._run) and self._run[-1].is_terminal
        if over and event.name != "prompt_received":
            watch.report("EVT-2.terminal", f"{event.name} came after {self._run[-1].name}")
            return
        if over or (event.name == "prompt_received" and not self._run):
            self._run, self._whole = [], True
        self._run.append(event)
        if event.is_terminal and self._whole:
            watch.monitors.run(watch.report, self._key, self._run)
