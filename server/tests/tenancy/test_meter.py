"""Budgets (MTR-2): a call reserves what it may come to; over the budget none starts."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cmdc_gateway.errors import BudgetExceeded
from cmdc_gateway.kernel.budget import Budget, Spend
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.meter import BudgetAccount, BudgetConfig, Meter, Reservation

ALICE, BOB, STRANGER = Principal("acme", "key_a"), Principal("acme", "key_b"), Principal("globex", "key_c")
TEN = Spend(10)


class Clock:
    """Time as days of 2026."""

    def __init__(self) -> None:
        self.at("03-15")

    def at(self, day: str) -> None:
        self.now = int(datetime.fromisoformat(f"2026-{day}T23:59:59.999").replace(tzinfo=UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.now


@dataclass(frozen=True)
class Used:
    key_id: str
    day: str
    usage: TokenUsage
    cost_usd: float = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def meter_of(clock: Clock, **allowances: BudgetConfig) -> Meter:
    """A meter with budgets by short names."""
    names = {"acme": "tenant:acme", "alice": "key:key_a", "bob": "key:key_b"}
    return Meter({names[name]: given for name, given in allowances.items()}, clock=clock)


def session_budget(tokens: int) -> BudgetAccount:
    return BudgetAccount("this session", Budget(tokens))


async def call(meter: Meter, caller: Principal, spent: Spend, own: BudgetAccount | None = None) -> None:
    """One model call that comes to what was expected of it."""
    reservation = await meter.reserve(caller, own, spent)
    meter.count(caller, own, spent)
    meter.release(reservation)


async def settled() -> None:
    """Let everybody act who can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_without_a_budget_nothing_is_refused(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(max_tokens=1))
    meter.count(ALICE, None, Spend(10**9, 1e6))

    meter.check(STRANGER, None)
    with pytest.raises(BudgetExceeded):
        meter.check(ALICE, None)


@pytest.mark.parametrize(
    ("spent", "refused"), [(Spend(99, 0.99), False), (Spend(100, 0.0), True), (Spend(0, 1.0), True)]
)
def test_a_budget_is_spent_in_tokens_or_in_money(clock: Clock, spent: Spend, refused: bool) -> None:
    """§3.5: 402 `budget_exceeded`."""
    meter = meter_of(clock, alice=BudgetConfig(100, 1.0))
    meter.count(ALICE, None, spent)

    with pytest.raises(BudgetExceeded, match="key:key_a") if refused else nullcontext():
        meter.check(ALICE, None)


def test_keys_of_a_tenant_share_its_budget_and_not_each_others(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(100), alice=BudgetConfig(10))
    meter.count(ALICE, None, TEN)

    meter.check(BOB, None)
    with pytest.raises(BudgetExceeded, match="key:key_a"):
        meter.check(ALICE, None)
    meter.count(BOB, None, Spend(90))
    with pytest.raises(BudgetExceeded, match="tenant:acme"):
        meter.check(BOB, None)


async def test_a_session_has_a_budget_of_its_own(clock: Clock) -> None:
    meter, own = meter_of(clock), session_budget(10)

    await call(meter, ALICE, TEN, own)

    with pytest.raises(BudgetExceeded, match="this session"):
        await meter.reserve(ALICE, own, TEN)
    await call(meter, ALICE, TEN, session_budget(10))


async def test_a_call_waits_for_another_that_may_yet_come_to_less(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(15))
    first = await meter.reserve(ALICE, None, TEN)

    second = asyncio.create_task(meter.reserve(BOB, None, TEN))
    await settled()
    assert not second.done()
    meter.count(ALICE, None, Spend(5))
    await settled()
    assert not second.done()
    meter.release(first)

    async with asyncio.timeout(5):
        reservation = await second
    assert reservation.amount == TEN
    assert [account.budget.reserved for account in reservation.accounts] == [TEN]


async def test_a_call_that_waited_is_refused_once_the_budget_is_spent(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(15))
    first = await meter.reserve(ALICE, None, TEN)
    waiting = [asyncio.create_task(meter.reserve(caller, None, TEN)) for caller in (BOB, ALICE)]
    await settled()

    meter.count(ALICE, None, Spend(15))
    meter.release(first)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BudgetExceeded, BudgetExceeded]


async def test_a_call_that_gives_up_waiting_holds_nothing(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(15))
    first = await meter.reserve(ALICE, None, TEN)
    waiting = asyncio.create_task(meter.reserve(BOB, None, TEN))
    await settled()

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    meter.release(first)

    async with asyncio.timeout(5):
        both = [await meter.reserve(BOB, None, Spend(7)), await meter.reserve(BOB, None, Spend(8))]
    assert [reservation.amount.tokens for reservation in both] == [7, 8]


async def test_a_call_waits_only_for_those_who_pay_from_the_same_budget(clock: Clock) -> None:
    meter = meter_of(clock, alice=BudgetConfig(10), bob=BudgetConfig(10))
    await meter.reserve(ALICE, None, TEN)

    async with asyncio.timeout(5):
        await meter.reserve(BOB, None, TEN)
        await meter.reserve(STRANGER, None, TEN)


async def test_many_calls_at_once_overspend_by_no_more_than_one(clock: Clock) -> None:
    """MTR-2."""
    meter, spent, running, most_at_once = meter_of(clock, acme=BudgetConfig(100)), 0, 0, 0

    async def one_call(caller: Principal, cost: int) -> None:
        nonlocal spent, running, most_at_once
        reservation = await meter.reserve(caller, None, Spend(30))
        running += 1
        most_at_once = max(most_at_once, running)
        await settled()
        running -= 1
        spent += cost
        meter.count(caller, None, Spend(cost))
        meter.release(reservation)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(
            *(one_call((ALICE, BOB)[n % 2], 10 + n % 21) for n in range(50)), return_exceptions=True
        )

    assert 100 <= spent < 130
    assert most_at_once == 3
    assert {type(outcome) for outcome in outcomes} == {type(None), BudgetExceeded}


async def test_a_call_without_a_budget_leaves_nothing_to_settle(clock: Clock) -> None:
    meter = meter_of(clock)

    reservation = await meter.reserve(ALICE, None, TEN)
    meter.release(reservation)

    assert reservation == Reservation((), TEN)


# -- periods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "still_spent_on", "renewed_on"),
    [("day", "03-15", "03-16"), ("month", "03-31", "04-01"), ("total", "12-31", None)],
)
def test_a_budget_is_renewed_with_its_period(
    clock: Clock, period: str, still_spent_on: str, renewed_on: str | None
) -> None:
    """In UTC: the clock stands a millisecond before midnight."""
    meter = meter_of(clock, acme=BudgetConfig(10, period=period))  # pyright: ignore[reportArgumentType]
    meter.check(ALICE, None)
    meter.count(ALICE, None, TEN)

    clock.at(still_spent_on)
    with pytest.raises(BudgetExceeded):
        meter.check(ALICE, None)
    if renewed_on:
        clock.at(renewed_on)
        meter.check(ALICE, None)


async def test_a_call_over_midnight_is_still_held_and_counts_in_the_new_day(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(15, period="day"))
    night_call = await meter.reserve(ALICE, None, TEN)
    clock.at("03-16")
    waiting = asyncio.create_task(meter.reserve(BOB, None, TEN))
    await settled()
    assert not waiting.done()

    meter.count(ALICE, None, TEN)
    meter.release(night_call)

    async with asyncio.timeout(5):
        (account,) = (await waiting).accounts
    assert account.budget == Budget(15, spent=TEN, reserved=TEN, calls=1)


@pytest.mark.parametrize(("period", "counted"), [("day", 1), ("month", 11), ("total", 111)])
def test_what_was_used_before_a_restart_counts_in_its_period(clock: Clock, period: str, counted: int) -> None:
    """MTR-1."""
    used = [
        Used("key_a", "2026-03-15", TokenUsage(1)),
        Used("key_b", "2026-03-01", TokenUsage(7, 3)),
        Used("key_a", "2025-03-15", TokenUsage(100)),
    ]
    enough = meter_of(clock, acme=BudgetConfig(counted + 1, period=period))  # pyright: ignore[reportArgumentType]
    spent = meter_of(clock, acme=BudgetConfig(counted, period=period))  # pyright: ignore[reportArgumentType]

    enough.load_usage("acme", used)
    spent.load_usage("acme", used)

    enough.check(ALICE, None)
    with pytest.raises(BudgetExceeded):
        spent.check(ALICE, None)


def test_what_another_tenant_used_counts_for_nobody_else(clock: Clock) -> None:
    """HTTP-8: nor does what another key used."""
    meter = meter_of(clock, acme=BudgetConfig(10), alice=BudgetConfig(10))

    meter.load_usage("globex", [Used("key_c", "2026-03-15", TokenUsage(100))])
    meter.load_usage("acme", [Used("key_b", "2026-03-15", TokenUsage(9), 99.0)])

    meter.check(ALICE, None)
    meter.count(BOB, None, Spend(1))
    with pytest.raises(BudgetExceeded, match="tenant:acme"):
        meter.check(ALICE, None)


def test_its_budgets_have_names(clock: Clock) -> None:
    assert meter_of(clock, acme=BudgetConfig(), bob=BudgetConfig()).names == ["tenant:acme", "key:key_b"]
