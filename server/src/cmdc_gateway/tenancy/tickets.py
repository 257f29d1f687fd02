"""Tickets: a browser's way in, where it can send no headers (§3.11)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cmdc_gateway.tenancy.keys import Principal

LIFETIME_MS = 30_000
_MAX_TICKETS = 100_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket allows, and until when (ms since 1970)."""

    principal: Principal
    session_id: str
    scope: Literal["read", "control"]
    expires_at: int


class Tickets:
    """Random, single-use, short-lived. Kept in memory: a restart outlasts none of them."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    def issue(self, caller: Principal, session_id: str, scope: Literal["read", "control"]) -> tuple[str, Ticket]:
        now = self._clock()
        self._forget(now)
        name = secrets.token_urlsafe(32)
        ticket = Ticket(caller, session_id, scope, now + LIFETIME_MS)
        self._tickets[name] = ticket
        return name, ticket

    def redeem(self, name: str, session_id: str) -> Ticket | None:
        """The ticket, if it is good for this session. It is used up by the try, whatever comes of it."""
        ticket = self._tickets.pop(name, None)
        if ticket is None or ticket.expires_at <= self._clock() or ticket.session_id != session_id:
            return None
        return ticket

    def _forget(self, now: int) -> None:
        # Tickets are issued in order of their end, so the stale ones come first.
        for name, ticket in list(self._tickets.items()):
            if ticket.expires_at > now and len(self._tickets) < _MAX_TICKETS:
                break
            del self._tickets[name]
