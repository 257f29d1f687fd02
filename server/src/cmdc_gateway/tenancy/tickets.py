"""Tickets: access for browsers, whose EventSource and WebSocket cannot send an API key (EP-tickets)."""

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
    """The access that a ticket grants, until `expires_at` (ms since 1970)."""

    principal: Principal
    session_id: str
    scope: Literal["read", "control"]
    expires_at: int


class Tickets:
    """Issues and redeems random, single-use, short-lived tickets. They are in memory only and do not survive a restart."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    def issue(self, principal: Principal, session_id: str, scope: Literal["read", "control"]) -> tuple[str, Ticket]:
        """Return a new ticket and the access it grants."""
        now = self._clock()
        self._discard_expired(now)
        token = secrets.token_urlsafe(32)
        ticket = Ticket(principal, session_id, scope, now + LIFETIME_MS)
        self._tickets[token] = ticket
        return token, ticket

    def redeem(self, token: str, session_id: str) -> Ticket | None:
        """The access a ticket grants to this session, or None. The ticket is consumed either way."""
        ticket = self._tickets.pop(token, None)
        if ticket is None or ticket.expires_at <= self._clock() or ticket.session_id != session_id:
            return None
        return ticket

    def _discard_expired(self, now: int) -> None:
        # Tickets are inserted in order of expiry, so the expired ones come first.
        for token, ticket in list(self._tickets.items()):
            if ticket.expires_at > now and len(self._tickets) < _MAX_TICKETS:
                break
            del self._tickets[token]
