"""Readers of a session's events. Whatever the transport, a reader is a growing list that checks wait on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from cmdc_conformance.evidence import Evidence
from cmdc_conformance.findings import Blocked, Unreadable
from cmdc_conformance.wire.event import Event, Transport, names
from cmdc_conformance.wire.monitors import Monitors


class Observer:
    """Where a connection sends what it reads: the evidence and the monitors, on behalf of the running check."""

    def __init__(self, monitors: Monitors, report: Callable[[str, str], None], evidence: Evidence) -> None:
        self.monitors = monitors
        self.report = report
        self.evidence = evidence


class Reader:
    """The events of one connection, in order. `deadline` is how long, in seconds, one wait may take.

    `filtered` means that the server omits events on request; `whole` that the first event is the first of a run.
    """

    transport: Transport = "sse"
    via: str = "raw"

    def __init__(
        self, observer: Observer, key: str, *, deadline: float, filtered: bool = False, whole: bool = True
    ) -> None:
        self.events: list[Event] = []
        self.ended = False
        self.failure: str | None = None
        self.unreadable = False
        self._observer = observer
        self._key = key
        self._deadline = deadline
        self._filtered = filtered
        self._whole = whole
        self._run: list[Event] = []
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def wait_for(self, name: str, *, nth: int = 1, after: int = 0) -> Event:
        """Wait for the nth event of this name after an index of the list. Raises Blocked at the deadline."""

        def found() -> Event | None:
            matches = [event for event in self.events[after:] if event.name == name]
            return matches[nth - 1] if len(matches) >= nth else None

        await self.wait(lambda: found() is not None, f"no {name} was received")
        event = found()
        assert event is not None
        return event

    async def wait_for_count(self, number: int) -> Sequence[Event]:
        """Wait for this many events and return them. Raises Blocked."""
        await self.wait(lambda: len(self.events) >= number, f"fewer than {number} events were received")
        return self.events[:number]

    async def wait_for_end(self, *, after: int = 0) -> list[Event]:
        """Wait for the first terminal event after an index; return the events up to it. Raises Blocked."""

        def terminal() -> int | None:
            return next((index for index, event in enumerate(self.events[after:], after) if event.is_terminal), None)

        await self.wait(lambda: terminal() is not None, "no terminal event was received")
        index = terminal()
        assert index is not None
        return self.events[after : index + 1]

    async def wait_until_closed(self, *, within: float | None = None) -> list[Event]:
        """Wait until the connection has ended; return all events. Raises Blocked."""
        await self.wait(lambda: self.ended, "the stream did not end", within=within, may_end=True)
        return self.events

    async def wait(
        self, condition: Callable[[], bool], otherwise: str, *, within: float | None = None, may_end: bool = False
    ) -> None:
        """Wait for a condition. Raises Blocked at the deadline, or if the connection ends before."""
        try:
            async with asyncio.timeout(within or self._deadline), self._changed:
                await self._changed.wait_for(lambda: condition() or (self.ended and not may_end))
        except TimeoutError:
            raise Blocked(f"{otherwise} within {within or self._deadline:g} s; {self._summary()}") from None
        if not condition():
            kind = Unreadable if self.unreadable else Blocked
            raise kind(f"{otherwise}: the connection ended; {self._summary()}")

    def _summary(self) -> str:
        latest = names(self.events[-6:])
        text = f"the latest events were {', '.join(latest)}" if latest else "there were no events"
        return f"{text}{f' ({self.failure})' if self.failure else ''}"

    # -- reading -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start reading, in a task."""
        self._task = asyncio.create_task(self._run_reader())
        return self

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run_reader(self) -> None:
        try:
            await self._read()
        except asyncio.CancelledError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever ends the connection is reported to the waiting check
            self.failure = f"{type(failure).__name__}: {failure}"[:300]
        finally:
            self.ended = True
            await self._notify()

    async def _read(self) -> None:
        raise NotImplementedError

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def receive(self, event: Event) -> None:
        """Append an event, after the monitors have validated it."""
        observer = self._observer
        observer.evidence.note(f"← {self.transport} {event}")
        observer.monitors.event(observer.report, self._key, event, self.transport, self.via)
        if self.via == "raw" and not self._filtered:
            observer.monitors.order(observer.report, self.events[-1].id if self.events else None, event)
        self.events.append(event)
        if not self._filtered:
            self._add_to_run(event)
        await self._notify()

    def _add_to_run(self, event: Event) -> None:
        observer = self._observer
        run_is_over = bool(self._run) and self._run[-1].is_terminal
        if run_is_over and event.name != "prompt_received":
            observer.report("EVT-2.terminal", f"{event.name} was sent after {self._run[-1].name}")
            return
        if run_is_over or (event.name == "prompt_received" and not self._run):
            self._run, self._whole = [], True
        self._run.append(event)
        if event.is_terminal and self._whole:
            observer.monitors.run(observer.report, self._key, self._run)
