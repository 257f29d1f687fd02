"""SIGTERM: what ends, when it does, and what is left for the next start. Each check stops the server, and is made alone.

When the signal arrives is not seen from outside: it is after the command `stop` was begun, and before the server shows
that it stops. So what comes too early is told by the one, and what comes too late by the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from cmdc_conformance.case import Case
from cmdc_conformance.check import SSE, WS, check
from cmdc_conformance.findings import Blocked, NotExercised, expect, owed
from cmdc_conformance.hooks import Hooks
from cmdc_conformance.scenarios.durable import expect_interrupted, whole_log
from cmdc_conformance.socket import opened

# Clocks of two processes, and timers that fire a moment early.
_EARLY = 0.1
# Of the grace period: an exit that is held up uses up all of it, and one that is not next to nothing.
_HELD_UP = 0.7
# Of the grace period: how much sooner the stream of an idle session ends than that of a run that needs all of it.
_SOONER = 0.25
# Below this a run that holds the exit up cannot be told from an exit that takes its time.
_LEAST_GRACE = 2.0


class _Stop:
    """SIGTERM, by the operator's command."""

    def __init__(self, case: Case, hooks: Hooks) -> None:
        self._case = case
        self._hooks = hooks
        self._begun: float | None = None
        self._command: asyncio.Task[None] | None = None
        self.grace = float(case.server.limit("graceMs", case.target.limits.grace_ms)) / 1000

    async def begin(self) -> None:
        """Run the command, which may last as long as the server does."""
        self._begun = monotonic()
        self._command = await self._hooks.stop()

    @property
    def since(self) -> float:
        """How many seconds it is since the command was begun, at least as long as since the signal."""
        assert self._begun is not None, "it was begun"
        return monotonic() - self._begun

    async def refusing(self) -> None:
        """Wait until /readyz is 503. Raises Blocked."""
        status: int | None = None
        try:
            async with asyncio.timeout(self._case.deadline):
                while status != 503:
                    status = (await self._case.nobody.get("/readyz")).status
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Blocked(f"/readyz is {status} and not 503 after SIGTERM") from None

    async def noticed(self) -> None:
        """Wait until it shows that the server stops, or that it has. Raises Blocked."""
        try:
            await self.refusing()
        except Blocked:
            if await self._hooks.answers():
                raise

    async def gone(self, *, within: float | None = None) -> None:
        """Wait until nothing answers; at most for the grace period and a second. Raises Blocked, also if `stop` failed."""
        longest = self.grace + 1 + self._case.target.timing.scale
        await self._hooks.gone(within=longest if within is None else within)
        if self._command is not None:
            command, self._command = self._command, None
            await command

    async def again(self) -> None:
        """Start the server, which is gone."""
        self._begun = None
        await self._hooks.start()

    async def over(self) -> None:
        """See to it that the server serves, whatever has become of it."""
        if self._begun is None:
            return
        try:
            await self.gone(within=self.grace + self._case.deadline)
        except Blocked:
            if self._case.target.hooks.kill is not None:
                await self._hooks.kill()
        finally:
            await self.again()


@asynccontextmanager
async def _stop(case: Case) -> AsyncGenerator[_Stop]:
    """The means to stop the server, which serves again at the end. Raises NotExercised where there are none."""
    hooks = Hooks(case)
    hooks.need("stop", "start")
    stop = _Stop(case, hooks)
    try:
        yield stop
    finally:
        await stop.over()


@check("DUR-3.refuses", faces=SSE, when="alone")
async def nothing_new(case: Case) -> None:
    """While a run still ends, /readyz and new prompts are 503, and the run is let end."""
    async with _stop(case) as stop, case.session() as session, case.session() as other, case.held(session) as held:
        await stop.begin()
        with owed("after SIGTERM, while a run is active"):
            await stop.refusing()
        (await other.prompt(case.plain())).must_be(503, code="unavailable")
        answer = await case.http.refused(f"{other.path}/events")
        answer.must_be(503, code="unavailable", why="a new stream")
        held.release()
        with owed("a run that ends within the grace period"):
            events = await held.run.end()
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")


@check("DUR-3.exit", faces=SSE, when="alone")
async def it_exits_in_time(case: Case) -> None:
    """With an open stream and a run that does not end it is there for the grace period, and gone a second later."""
    async with (
        _stop(case) as stop,
        case.session() as idle,
        case.session() as session,
        case.held(session),
        case.http.events(idle.id, idle.key) as reader,
    ):
        await stop.begin()
        with owed("after SIGTERM, the stream of an idle session"):
            await reader.closed()
        with owed("after SIGTERM, with an active run"):
            await stop.gone()
        lasted = stop.since
        expect(
            lasted >= stop.grace - _EARLY,
            f"it was gone {lasted:.1f} s after SIGTERM, and an active run has {stop.grace:g} s to end",
        )


@check("DUR-3.streams", faces=SSE, when="alone")
async def streams_are_ended(case: Case) -> None:
    """The stream of an idle session ends cleanly while the server is still there, that of a run with the grace period."""
    async with (
        _stop(case) as stop,
        case.session() as idle,
        case.session() as session,
        case.held(session) as held,
        case.http.events(idle.id, idle.key) as reader,
    ):
        await stop.begin()
        with owed("after SIGTERM, the stream of an idle session"):
            await reader.closed()
        idle_for = stop.since
        expect(reader.failure is None, f"the stream of an idle session was cut: {reader.failure}")
        with owed("at the end of the grace period, the stream of an active run"):
            await held.run.reader.closed(within=stop.grace + case.deadline)
        lasted = stop.since
        expect(
            lasted - idle_for >= _SOONER * stop.grace,
            f"after SIGTERM the stream of an idle session ended after {idle_for:.1f} s, that of an active run after"
            f" {lasted:.1f} s; only the run may use its {stop.grace:g} s",
        )
        expect(
            lasted >= stop.grace - _EARLY,
            f"the stream of an active run ended {lasted:.1f} s after SIGTERM, and the run has {stop.grace:g} s to end",
        )


@check("DUR-3.people", faces=SSE, when="alone")
async def people_hold_nothing_up(case: Case) -> None:
    """A run that waits for a person lets the server go before its grace period is over, and waits after the start."""
    async with _stop(case) as stop, case.waiting_call() as waiting:
        if stop.grace < _LEAST_GRACE:
            raise NotExercised(f"needs a grace period of {_LEAST_GRACE:g} s or more, to see that it is not used up")
        await stop.begin()
        with owed("after SIGTERM"):
            await stop.noticed()
            noticed = monotonic()
            await stop.gone()
        lasted = monotonic() - noticed
        expect(
            lasted < _HELD_UP * stop.grace,
            f"with a run that only waits for a person it was there for {lasted:.1f} s more; its grace period is"
            f" {stop.grace:g} s",
        )
        await stop.again()
        with owed("after the next start"):
            await waiting.session.state("waiting_approval")
        (await waiting.session.decide("approve", waiting.approval)).must_be(200, why="it still waits")


@check("DUR-3.left", faces=SSE, when="alone")
async def what_is_left(case: Case) -> None:
    """A run that was open at the end is closed with interrupted after the next start, and its call is not made again."""
    async with _stop(case) as stop, case.session() as session, case.held(session) as held:
        await stop.begin()
        await stop.gone(within=stop.grace + case.deadline)  # how long it takes is judged elsewhere
        await stop.again()
        with owed("after the next start"):
            log = await whole_log(case, session)
        expect_interrupted(log)
        expect(len(held.tool.calls) == 1, f"the call was made {len(held.tool.calls)} times")


@check("DUR-3.websocket", faces=WS, when="alone")
async def websockets_are_told(case: Case) -> None:
    """WebSockets are closed with 1012."""
    async with (
        _stop(case) as stop,
        case.session() as session,
        opened(case.http, session.id, session.key) as socket,
    ):
        await stop.begin()
        with owed("after SIGTERM"):
            await socket.closed(within=stop.grace + case.deadline)
        expect(socket.close_code == 1012, f"the close code is {socket.close_code}")
