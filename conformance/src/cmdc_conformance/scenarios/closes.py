"""WebSockets that the server closes, and the code with which it does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

from websockets.frames import Opcode

from cmdc_conformance.bare import Bare, bare
from cmdc_conformance.case import Case
from cmdc_conformance.check import WS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, Failed, NotExercised, expect, owed
from cmdc_conformance.hooks import Hooks
from cmdc_conformance.socket import opened

_PING_SECONDS = 20
_SLOW_SECONDS = 30
# How many readers begin to read again, one after another, and how far apart. A server gives up on a reader at a moment
# that is not seen from outside, and one that begins to read soon after that still hears of it.
_READERS, _APART = 16, 1.0


@check("WS-6.ping", faces=WS, when="slow")
async def pings(case: Case) -> None:
    """A ping comes within 20 seconds."""
    within = _PING_SECONDS + 5 * case.target.timing.scale
    async with case.session() as session, bare(case.http, session.id) as socket:
        begun = monotonic()
        try:
            async with asyncio.timeout(within):
                async for frame in socket.frames():
                    if frame.opcode is Opcode.PING:
                        return
        except TimeoutError:
            raise Failed(f"no ping came within {within:.0f} s") from None
        raise Failed(f"the connection was closed after {monotonic() - begun:.0f} s")


@check("WS-6.pong", faces=WS, when="slow")
async def no_pong(case: Case) -> None:
    """Who answers no ping is disconnected; who does stays connected."""
    async with (
        case.session() as session,
        opened(case.http, session.id, session.key) as polite,
        bare(case.http, session.id) as socket,
    ):
        pinged = False
        try:
            async with asyncio.timeout(_PING_SECONDS + 5 * case.target.timing.scale) as patience:
                async for frame in socket.frames():
                    if frame.opcode is Opcode.PING and not pinged:
                        pinged = True
                        within = _PING_SECONDS + 5 * case.target.timing.scale
                        patience.reschedule(asyncio.get_running_loop().time() + within)
        except TimeoutError:
            if not pinged:
                raise Blocked("no ping came that could be left unanswered") from None
            raise Failed("a ping was not answered, and the connection is still open") from None
        answer = await polite.send('{"action": "fly"}')
        answer.must_be(400, code="bad_request", why="who answers its pings stays connected")


@check("WS-6.deleted", faces=WS)
async def the_session_goes(case: Case) -> None:
    """Deleting the session closes its WebSockets with 4004."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        (await case.http.delete(session.path)).needed(200)
        with owed("after the session was deleted"):
            await socket.closed()
        expect(socket.close_code == 4004, f"the close code is {socket.close_code}")


@check("WS-6.revoked", faces=WS)
async def the_key_goes(case: Case) -> None:
    """Taking its key away closes a WebSocket with 4001; that of another key stays open."""
    hooks = Hooks(case)
    hooks.need("admit", "revoke")
    if (key := case.target.keys.leaving) is None:
        raise NotExercised("needs a key that `admit` lets in and `revoke` takes away: `leaving` in [keys]")
    leaving = case.http.with_key(key)
    async with case.session() as session, opened(case.http, session.id, session.key) as other:
        await hooks.admit()
        status: int | None = None
        try:
            async with asyncio.timeout(case.deadline):
                while (status := (await leaving.get(session.path)).status) != 200:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            said = f"with the key `leaving`, after `admit`, the first tenant's session is {status} and not 200"
            raise Blocked(said) from None
        async with opened(leaving, session.id, session.key) as socket:
            await hooks.revoke()
            with owed("after its key was taken away"):
                await socket.closed()
            expect(socket.close_code == 4001, f"the close code is {socket.close_code}")
        (await other.send('{"action": "fly"}')).must_be(400, code="bad_request", why="its key was not taken away")


@check("WS-6.slow", faces=WS, when="slow")
async def readers_that_are_too_slow(case: Case) -> None:
    """Readers take nothing for 30 seconds and more, and begin one after another to read again, to hear why.

    Which of them does is a matter of chance, and none may: a server owes those that do not read no more than an end.
    """
    async with case.session() as session, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(bare(case.http, session.id, narrow=True)) for _ in range(_READERS)]
        begun = monotonic()
        for _ in range(5):
            await session.ran(case.script(reply(*["x" * 50_000] * 14)))
        ends = [
            asyncio.create_task(_end_of(each, begun + _SLOW_SECONDS + 0.5 + number * _APART, case.target.timing.scale))
            for number, each in enumerate(readers)
        ]
        heard = await asyncio.gather(*ends)
        case.http.watch.evidence.note(f"← the readers ended with {', '.join(map(str, heard))}")
        expect(set(heard) != {"nothing"}, f"after {monotonic() - begun:.0f} s without reading it is still open")
        # A server that waits for a pong meanwhile may miss that first.
        wrong = [code for code in heard if isinstance(code, int) and code not in (4008, 1011)]
        expect(not wrong, f"the close codes are {', '.join(map(str, wrong))}")


async def _end_of(socket: Bare, at: float, scale: float) -> int | str:
    """The close code that this reader hears if it begins to read then; `cut` without one, or `nothing` came of it."""
    await asyncio.sleep(max(0.0, at - monotonic()))
    try:
        async with asyncio.timeout(3 * scale):
            async for _ in socket.frames():
                pass
    except TimeoutError:
        return "nothing"
    return socket.close_code or "cut"
