"""Shutdown: what SIGTERM ends, when, and what is left for the next start. Each check stops the server exclusively.

The time of the signal is not visible from outside. It lies between the start of the command `stop` and the first sign
that the server is stopping, so minimum durations are measured from the former and maximum durations from the latter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.durability.crashes import expect_interrupted, whole_log
from cmdc_conformance.checks.registry import RAW_SSE, RAW_WS, check
from cmdc_conformance.checks.server_process import ServerProcess
from cmdc_conformance.findings import Blocked, NotExercised, expect, fails_if_blocked
from cmdc_conformance.wire.websocket import connect_websocket

# In seconds: clocks of two processes differ, and timers may fire early.
_TOLERANCE = 0.1
# As a fraction of the grace period: a delayed exit uses all of it, any other next to nothing.
_DELAYED = 0.7
# As a fraction of the grace period: how much earlier the stream of an idle session ends than that of an active run.
_EARLIER = 0.25
# In seconds: with a shorter grace period, a delayed exit cannot be distinguished from a slow one.
_MIN_GRACE = 2.0


class _Stop:
    """SIGTERM, sent with the operator's command. `grace` is the grace period in seconds."""

    def __init__(self, ctx: CheckContext, process: ServerProcess) -> None:
        self._ctx = ctx
        self._process = process
        self._sent_at: float | None = None
        self._command: asyncio.Task[None] | None = None
        self.grace = float(ctx.server.limit("graceMs", ctx.target.limits.grace_ms)) / 1000

    def send(self) -> None:
        """Run the command, which may take as long as the server does to exit."""
        self._sent_at = monotonic()
        self._command = self._process.stop()

    @property
    def elapsed(self) -> float:
        """The seconds since the command was started: an upper bound of the time since the signal."""
        assert self._sent_at is not None
        return monotonic() - self._sent_at

    async def wait_until_not_ready(self) -> None:
        """Wait until /readyz is 503. Raises Blocked."""
        status: int | None = None
        try:
            async with asyncio.timeout(self._ctx.deadline):
                while status != 503:
                    status = (await self._ctx.anonymous.get("/readyz")).status
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Blocked(f"/readyz returned {status}, not 503, after SIGTERM") from None

    async def wait_until_stopping(self) -> None:
        """Wait until the server is not ready or gone. Raises Blocked."""
        try:
            await self.wait_until_not_ready()
        except Blocked:
            if await self._process.responds():
                raise

    async def wait_until_gone(self, *, within: float | None = None) -> None:
        """Wait until the server is gone, by default for the grace period and a second. Raises Blocked, also if `stop` failed."""
        timeout = self.grace + 1 + self._ctx.target.timing.scale
        await self._process.wait_until_gone(within=timeout if within is None else within)
        if self._command is not None:
            command, self._command = self._command, None
            await command

    async def restart(self) -> None:
        """Start the server after it has exited."""
        self._sent_at = None
        await self._process.start()

    async def restore(self) -> None:
        """Make sure that the server is running, whatever the check left behind."""
        if self._sent_at is None:
            return
        try:
            await self.wait_until_gone(within=self.grace + self._ctx.deadline)
        except Blocked:
            if self._ctx.target.hooks.kill is not None:
                await self._process.kill()
        finally:
            await self.restart()


@asynccontextmanager
async def _stop(ctx: CheckContext) -> AsyncGenerator[_Stop]:
    """Allow a check to stop the server, and restart it on exit. Raises NotExercised."""
    process = ServerProcess(ctx)
    process.require("stop", "start")
    stop = _Stop(ctx, process)
    try:
        yield stop
    finally:
        await stop.restore()


@check("DUR-3.refuses", variants=RAW_SSE, schedule="exclusive")
async def new_work_is_refused(ctx: CheckContext) -> None:
    """During the grace period of a run, /readyz, new prompts and new streams return 503, and the run may finish."""
    async with _stop(ctx) as stop, ctx.session() as session, ctx.session() as other, ctx.paused_run(session) as paused:
        stop.send()
        with fails_if_blocked("after SIGTERM, while a run is active"):
            await stop.wait_until_not_ready()
        (await other.prompt(ctx.simple_prompt())).expect(503, code="unavailable")
        response = await ctx.http.try_stream(f"{other.path}/events")
        response.expect(503, code="unavailable", why="a new stream")
        paused.release()
        with fails_if_blocked("a run that ends within the grace period"):
            events = await paused.run.wait_for_end()
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")


@check("DUR-3.exit", variants=RAW_SSE, schedule="exclusive")
async def the_server_exits_after_the_grace_period(ctx: CheckContext) -> None:
    """With an open stream and an active run, the server exits after its grace period and within a second of it."""
    async with (
        _stop(ctx) as stop,
        ctx.session() as idle,
        ctx.session() as session,
        ctx.paused_run(session),
        ctx.http.events(idle.id, idle.key) as reader,
    ):
        stop.send()
        with fails_if_blocked("after SIGTERM, the stream of an idle session"):
            await reader.wait_until_closed()
        with fails_if_blocked("after SIGTERM, with an active run"):
            await stop.wait_until_gone()
        seconds = stop.elapsed
        expect(
            seconds >= stop.grace - _TOLERANCE,
            f"the server was gone {seconds:.1f} s after SIGTERM, and an active run has {stop.grace:g} s to finish",
        )


@check("DUR-3.streams", variants=RAW_SSE, schedule="exclusive")
async def streams_end_cleanly(ctx: CheckContext) -> None:
    """The stream of an idle session ends immediately and cleanly, that of an active run with the grace period."""
    async with (
        _stop(ctx) as stop,
        ctx.session() as idle,
        ctx.session() as session,
        ctx.paused_run(session) as paused,
        ctx.http.events(idle.id, idle.key) as reader,
    ):
        stop.send()
        with fails_if_blocked("after SIGTERM, the stream of an idle session"):
            await reader.wait_until_closed()
        idle_seconds = stop.elapsed
        expect(reader.failure is None, f"the stream of an idle session was cut: {reader.failure}")
        with fails_if_blocked("at the end of the grace period, the stream of an active run"):
            await paused.run.reader.wait_until_closed(within=stop.grace + ctx.deadline)
        seconds = stop.elapsed
        expect(
            seconds - idle_seconds >= _EARLIER * stop.grace,
            f"after SIGTERM the stream of an idle session ended after {idle_seconds:.1f} s, that of an active run after"
            f" {seconds:.1f} s; only the run may use the {stop.grace:g} s",
        )
        expect(
            seconds >= stop.grace - _TOLERANCE,
            f"the stream of an active run ended {seconds:.1f} s after SIGTERM, and the run has {stop.grace:g} s to finish",
        )


@check("DUR-3.people", variants=RAW_SSE, schedule="exclusive")
async def waiting_runs_do_not_delay_the_exit(ctx: CheckContext) -> None:
    """A run that waits for a person does not delay the exit, and still waits after the next start."""
    async with _stop(ctx) as stop, ctx.pending_approval() as approval:
        if stop.grace < _MIN_GRACE:
            raise NotExercised(f"needs a grace period of {_MIN_GRACE:g} s or more")
        stop.send()
        with fails_if_blocked("after SIGTERM"):
            await stop.wait_until_stopping()
            stopping_at = monotonic()
            await stop.wait_until_gone()
        seconds = monotonic() - stopping_at
        expect(
            seconds < _DELAYED * stop.grace,
            f"with a run that only waits for a person, the server took {seconds:.1f} s of its grace period of"
            f" {stop.grace:g} s to exit",
        )
        await stop.restart()
        with fails_if_blocked("after the next start"):
            await approval.session.wait_for_state("waiting_approval")
        (await approval.session.decide("approve", approval.id)).expect(200, why="the run still waits")


@check("DUR-3.left", variants=RAW_SSE, schedule="exclusive")
async def an_unfinished_run_is_closed_at_the_next_start(ctx: CheckContext) -> None:
    """A run that did not finish is closed with interrupted after the next start, and its call is not repeated."""
    async with _stop(ctx) as stop, ctx.session() as session, ctx.paused_run(session) as paused:
        stop.send()
        await stop.wait_until_gone(within=stop.grace + ctx.deadline)  # DUR-3.exit covers the duration
        await stop.restart()
        with fails_if_blocked("after the next start"):
            log = await whole_log(ctx, session)
        expect_interrupted(log)
        expect(len(paused.tool.calls) == 1, f"the call was made {len(paused.tool.calls)} times")


@check("DUR-3.websocket", variants=RAW_WS, schedule="exclusive")
async def websockets_are_closed(ctx: CheckContext) -> None:
    """WebSockets are closed with 1012."""
    async with (
        _stop(ctx) as stop,
        ctx.session() as session,
        connect_websocket(ctx.http, session.id, session.key) as socket,
    ):
        stop.send()
        with fails_if_blocked("after SIGTERM"):
            await socket.wait_until_closed(within=stop.grace + ctx.deadline)
        expect(socket.close_code == 1012, f"the close code is {socket.close_code}")
