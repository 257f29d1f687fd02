"""Tickets, with which a browser opens one stream or WebSocket."""

from __future__ import annotations

import time

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_HTTP, check
from cmdc_conformance.findings import expect, require


@check("EP-tickets.issued", variants=RAW_HTTP)
async def tickets_are_random_and_short_lived(ctx: CheckContext) -> None:
    """A ticket is random and expires after 30 seconds."""
    async with ctx.session() as session:
        issued = [
            (await ctx.http.post(f"{session.path}/tickets", {"scope": "read"}, secret=True)).expect(201)
            for _ in range(2)
        ]
        expect(issued[0]["ticket"] != issued[1]["ticket"], "two tickets are the same")
        expect(len(str(issued[0]["ticket"])) >= 22, "a ticket is too short to be random")
        remaining = issued[0]["expiresAt"] - time.time() * 1000
        expect(5_000 < remaining < 60_000, f"expiresAt is {remaining / 1000:.0f} s from now")
        (await ctx.http.post(f"{session.path}/tickets", {"scope": "everything"})).expect(
            400, why="the scope is unknown"
        )


@check("EP-tickets.single-use")
async def a_ticket_is_used_once(ctx: CheckContext) -> None:
    """A ticket that was used returns 401."""
    async with ctx.session() as session:
        path = f"{session.path}/events?ticket={await ctx.ticket(session.path)}"
        async with ctx.anonymous.open_stream(path) as response:
            require(response.status_code == 200, f"a stream with a ticket returned {response.status_code}")
        (await ctx.anonymous.try_stream(path)).expect(401, code="unauthorized", why="the ticket was used before")


@check("EP-tickets.one-session")
async def a_ticket_is_for_one_session(ctx: CheckContext) -> None:
    """A ticket for one session does not open another."""
    async with ctx.session() as one, ctx.session() as other:
        ticket = await ctx.ticket(one.path)
        (await ctx.anonymous.try_stream(f"{other.path}/events?ticket={ticket}")).expect(
            401, 404, why="the ticket is for another session"
        )
        ticket = await ctx.ticket(one.path)
        async with ctx.anonymous.open_stream(f"{one.path}/events?ticket={ticket}") as response:
            expect(response.status_code == 200, f"its own session returned {response.status_code}")
