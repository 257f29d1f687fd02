"""A browser's way in (§3.11): random, single-use, for 30 seconds and one session."""

import pytest
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.tickets import LIFETIME_MS, Ticket, Tickets

CALLER = Principal("acme", "key_1")


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


def test_a_ticket_is_good_once(tickets: Tickets) -> None:
    name, ticket = tickets.issue(CALLER, "s1", "read")

    assert ticket == Ticket(CALLER, "s1", "read", expires_at=31_000)
    assert tickets.redeem(name, "s1") == ticket
    assert tickets.redeem(name, "s1") is None


def test_a_ticket_keeps_its_scope(tickets: Tickets) -> None:
    name, _ = tickets.issue(CALLER, "s1", "control")

    redeemed = tickets.redeem(name, "s1")

    assert redeemed is not None
    assert redeemed.scope == "control"


@pytest.mark.parametrize(("later", "good"), [(LIFETIME_MS - 1, True), (LIFETIME_MS, False), (LIFETIME_MS * 10, False)])
def test_a_ticket_is_good_for_thirty_seconds(tickets: Tickets, clock: Clock, later: int, good: bool) -> None:
    name, _ = tickets.issue(CALLER, "s1", "read")
    clock.now += later

    assert (tickets.redeem(name, "s1") is not None) == good


def test_a_ticket_is_used_up_by_trying_it_on_another_session(tickets: Tickets) -> None:
    name, _ = tickets.issue(CALLER, "s1", "read")

    assert tickets.redeem(name, "s2") is None
    assert tickets.redeem(name, "s1") is None


def test_what_was_never_issued_is_good_for_nothing(tickets: Tickets) -> None:
    tickets.issue(CALLER, "s1", "read")

    assert tickets.redeem("", "s1") is None
    assert tickets.redeem("guess", "s1") is None


def test_no_two_tickets_are_alike(tickets: Tickets) -> None:
    names = {tickets.issue(CALLER, "s1", "read")[0] for _ in range(100)}

    assert len(names) == 100
    assert min(map(len, names)) >= 43  # 256 bits


def test_tickets_that_nobody_used_are_forgotten(tickets: Tickets, clock: Clock) -> None:
    """They cost memory for 30 seconds, and no longer."""
    for _ in range(100):
        tickets.issue(CALLER, "s1", "read")
    clock.now += LIFETIME_MS

    name, ticket = tickets.issue(CALLER, "s1", "read")

    assert tickets._tickets == {name: ticket}  # pyright: ignore[reportPrivateUsage]
