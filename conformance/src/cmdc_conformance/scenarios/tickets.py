"""Tickets: what a browser opens one stream or WebSocket with."""

from __future__ import annotations

import time

from cmdc_conformance.case import Case
from cmdc_conformance.check import ONCE, check
from cmdc_conformance.findings import expect, need


@check("EP-tickets.issued", faces=ONCE)
async def tickets(case: Case) -> None:
    """A ticket is random, and good for 30 seconds."""
    async with case.session() as session:
        issued = [
            (await case.http.post(f"{session.path}/tickets", {"scope": "read"}, secret=True)).must_be(201)
            for _ in range(2)
        ]
        expect(issued[0]["ticket"] != issued[1]["ticket"], "two tickets are the same")
        expect(len(str(issued[0]["ticket"])) >= 22, "a ticket is too short to be random")
        left = issued[0]["expiresAt"] - time.time() * 1000
        expect(5_000 < left < 60_000, f"expiresAt is {left / 1000:.0f} s from now")
        (await case.http.post(f"{session.path}/tickets", {"scope": "everything"})).must_be(
            400, why="there is no such scope"
        )


async def ticket_of(case: Case, path: str, scope: str = "read") -> str:
    """A new ticket of a session. Raises Blocked."""
    return str((await case.http.post(f"{path}/tickets", {"scope": scope}, secret=True)).needed(201)["ticket"])


@check("EP-tickets.single-use")
async def a_ticket_is_used_once(case: Case) -> None:
    """The second use is 401."""
    async with case.session() as session:
        path = f"{session.path}/events?ticket={await ticket_of(case, session.path)}"
        async with case.nobody.opened(path) as response:
            need(response.status_code == 200, f"a ticket is answered {response.status_code}")
        (await case.nobody.refused(path)).must_be(401, code="unauthorized", why="the ticket was used")


@check("EP-tickets.one-session")
async def a_ticket_is_of_one_session(case: Case) -> None:
    """A ticket of one session does not open another."""
    async with case.session() as one, case.session() as other:
        ticket = await ticket_of(case, one.path)
        (await case.nobody.refused(f"{other.path}/events?ticket={ticket}")).must_be(
            401, 404, why="it is of another session"
        )
        ticket = await ticket_of(case, one.path)
        async with case.nobody.opened(f"{one.path}/events?ticket={ticket}") as response:
            expect(response.status_code == 200, f"its own session answers {response.status_code}")
