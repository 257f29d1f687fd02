"""Tickets (EP-tickets): random, single-use, valid for 30 seconds and one session."""

import pytest
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.tickets import LIFETIME_MS, Ticket, Tickets

PRINCIPAL = Principal("acme", "key_1")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(clock)


def test_a_ticket_can_be_redeemed_once(tickets: Tickets) -> None:
    token, ticket = tickets.issue(PRINCIPAL, "s1", "read")

    assert ticket == Ticket(PRINCIPAL, "s1", "read", expires_at=31_000)
    assert tickets.redeem(token, "s1") == ticket
    assert tickets.redeem(token, "s1") is None


def test_a_ticket_keeps_its_scope(tickets: Tickets) -> None:
    token, _ = tickets.issue(PRINCIPAL, "s1", "control")

    redeemed = tickets.redeem(token, "s1")

    assert redeemed is not None
    assert redeemed.scope == "control"


@pytest.mark.parametrize(("later", "valid"), [(LIFETIME_MS - 1, True), (LIFETIME_MS, False), (LIFETIME_MS * 10, False)])
def test_a_ticket_expires_after_thirty_seconds(tickets: Tickets, clock: Clock, later: int, valid: bool) -> None:
    token, _ = tickets.issue(PRINCIPAL, "s1", "read")
    clock.now += later

    assert (tickets.redeem(token, "s1") is not None) == valid


def test_an_attempt_on_another_session_consumes_the_ticket(tickets: Tickets) -> None:
    token, _ = tickets.issue(PRINCIPAL, "s1", "read")

    assert tickets.redeem(token, "s2") is None
    assert tickets.redeem(token, "s1") is None


def test_a_ticket_that_was_never_issued_is_rejected(tickets: Tickets) -> None:
    tickets.issue(PRINCIPAL, "s1", "read")

    assert tickets.redeem("", "s1") is None
    assert tickets.redeem("guess", "s1") is None


def test_tickets_are_unique(tickets: Tickets) -> None:
    tokens = {tickets.issue(PRINCIPAL, "s1", "read")[0] for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43  # 256 bits


def test_expired_tickets_are_discarded(tickets: Tickets, clock: Clock) -> None:
    """Unused tickets occupy memory for 30 seconds at most."""
    for _ in range(100):
        tickets.issue(PRINCIPAL, "s1", "read")
    clock.now += LIFETIME_MS

    token, ticket = tickets.issue(PRINCIPAL, "s1", "read")

    assert tickets._tickets == {token: ticket}  # pyright: ignore[reportPrivateUsage]
