"""WebSockets that the server closes, and their close codes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

from websockets.frames import Opcode

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_WS, check
from cmdc_conformance.checks.server_process import ServerProcess
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, Failed, NotExercised, expect, fails_if_blocked
from cmdc_conformance.wire.raw_websocket import RawWebSocket, raw_websocket
from cmdc_conformance.wire.websocket import connect_websocket

_PING_SECONDS = 20
_SLOW_SECONDS = 30
# The readers resume reading one after another, this many seconds apart. The moment at which the server gives up on a
# reader is not visible from outside, and a reader receives the close code only if it resumes shortly after it.
_READERS, _APART = 16, 1.0


@check("WS-6.ping", variants=RAW_WS, schedule="slow")
async def the_server_pings(ctx: CheckContext) -> None:
    """The server sends a ping within 20 seconds."""
    within = _PING_SECONDS + 5 * ctx.target.timing.scale
    async with ctx.session() as session, raw_websocket(ctx.http, session.id) as socket:
        begun = monotonic()
        try:
            async with asyncio.timeout(within):
                async for frame in socket.frames():
                    if frame.opcode is Opcode.PING:
                        return
        except TimeoutError:
            raise Failed(f"no ping arrived within {within:.0f} s") from None
        raise Failed(f"the connection was closed after {monotonic() - begun:.0f} s")


@check("WS-6.pong", variants=RAW_WS, schedule="slow")
async def an_unanswered_ping_closes_the_connection(ctx: CheckContext) -> None:
    """A client that does not answer a ping is disconnected; one that does stays connected."""
    async with (
        ctx.session() as session,
        connect_websocket(ctx.http, session.id, session.key) as responsive,
        raw_websocket(ctx.http, session.id) as socket,
    ):
        pinged = False
        try:
            async with asyncio.timeout(_PING_SECONDS + 5 * ctx.target.timing.scale) as deadline:
                async for frame in socket.frames():
                    if frame.opcode is Opcode.PING and not pinged:
                        pinged = True
                        within = _PING_SECONDS + 5 * ctx.target.timing.scale
                        deadline.reschedule(asyncio.get_running_loop().time() + within)
        except TimeoutError:
            if not pinged:
                raise Blocked("no ping arrived") from None
            raise Failed("the connection is still open after an unanswered ping") from None
        response = await responsive.send('{"action": "fly"}')
        response.expect(400, code="bad_request", why="a client that answers pings stays connected")


@check("WS-6.deleted", variants=RAW_WS)
async def deleting_the_session_closes_its_websockets(ctx: CheckContext) -> None:
    """Deleting the session closes its WebSockets with 4004."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        (await ctx.http.delete(session.path)).require(200)
        with fails_if_blocked("after the session was deleted"):
            await socket.wait_until_closed()
        expect(socket.close_code == 4004, f"the close code is {socket.close_code}")


@check("WS-6.revoked", variants=RAW_WS)
async def revoking_a_key_closes_its_websockets(ctx: CheckContext) -> None:
    """Revoking a key closes its WebSockets with 4001; those of another key stay open."""
    process = ServerProcess(ctx)
    process.require("admit", "revoke")
    if (key := ctx.target.keys.leaving) is None:
        raise NotExercised("needs a key that `admit` adds and `revoke` removes: `leaving` in [keys]")
    leaving = ctx.http.with_key(key)
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as other:
        await process.admit()
        status: int | None = None
        try:
            async with asyncio.timeout(ctx.deadline):
                while (status := (await leaving.get(session.path)).status) != 200:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            message = f"the key `leaving` does not work after `admit`: the first tenant's session returned {status}"
            raise Blocked(message) from None
        async with connect_websocket(leaving, session.id, session.key) as socket:
            await process.revoke()
            with fails_if_blocked("after its key was revoked"):
                await socket.wait_until_closed()
            expect(socket.close_code == 4001, f"the close code is {socket.close_code}")
        (await other.send('{"action": "fly"}')).expect(400, code="bad_request", why="its key was not revoked")


@check("WS-6.slow", variants=RAW_WS, schedule="slow")
async def stalled_readers_are_disconnected(ctx: CheckContext) -> None:
    """Readers that read nothing for 30 seconds are disconnected, with 4008 if they still receive a close code.

    They resume reading one after another. Which of them receives the code is a matter of timing, and none has to.
    """
    async with ctx.session() as session, AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(raw_websocket(ctx.http, session.id, small_buffer=True))
            for _ in range(_READERS)
        ]
        begun = monotonic()
        for _ in range(5):
            await session.run_to_end(ctx.script(reply(*["x" * 50_000] * 14)))
        tasks = [
            asyncio.create_task(_end_of(each, begun + _SLOW_SECONDS + 0.5 + number * _APART, ctx.target.timing.scale))
            for number, each in enumerate(readers)
        ]
        ends = await asyncio.gather(*tasks)
        ctx.http.observer.evidence.note(f"← the readers ended with {', '.join(map(str, ends))}")
        expect(set(ends) != {"open"}, f"connections are still open after {monotonic() - begun:.0f} s without reading")
        # The keepalive of the server may time out first, which closes with 1011.
        wrong = [code for code in ends if isinstance(code, int) and code not in (4008, 1011)]
        expect(not wrong, f"the close codes are {', '.join(map(str, wrong))}")


async def _end_of(socket: RawWebSocket, start_at: float, scale: float) -> int | str:
    """Resume reading at this time; return the close code, "cut" without one, or "open" if the connection stays open."""
    await asyncio.sleep(max(0.0, start_at - monotonic()))
    try:
        async with asyncio.timeout(3 * scale):
            async for _ in socket.frames():
                pass
    except TimeoutError:
        return "open"
    return socket.close_code or "cut"
