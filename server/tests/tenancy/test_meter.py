"""Budgets (MTR-2): a call reserves its estimate, and none starts once a budget is exhausted."""

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
    """A clock that is set to days of 2026."""

    def __init__(self) -> None:
        self.at("03-15")

    def at(self, day: str) -> None:
        self.now = int(datetime.fromisoformat(f"2026-{day}T23:59:59.999").replace(tzinfo=UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.now


@dataclass(frozen=True)
class Usage:
    key_id: str
    day: str
    usage: TokenUsage
    cost_usd: float = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def meter_of(clock: Clock, **budgets: BudgetConfig) -> Meter:
    """A meter with budgets by short names."""
    names = {"acme": "tenant:acme", "alice": "key:key_a", "bob": "key:key_b"}
    return Meter({names[name]: budget for name, budget in budgets.items()}, clock=clock)


def session_budget(tokens: int) -> BudgetAccount:
    return BudgetAccount("this session", Budget(tokens))


async def call(meter: Meter, principal: Principal, spent: Spend, own: BudgetAccount | None = None) -> None:
    """A model call that costs exactly its estimate."""
    reservation = await meter.reserve(principal, own, spent)
    meter.count(principal, own, spent)
    meter.release(reservation)


async def settled() -> None:
    """Let every runnable task run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_principal_without_a_budget_is_never_rejected(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(max_tokens=1))
    meter.count(ALICE, None, Spend(10**9, 1e6))

    meter.check(STRANGER, None)
    with pytest.raises(BudgetExceeded):
        meter.check(ALICE, None)


@pytest.mark.parametrize(
    ("spent", "refused"), [(Spend(99, 0.99), False), (Spend(100, 0.0), True), (Spend(0, 1.0), True)]
)
def test_a_budget_is_exhausted_in_tokens_or_in_dollars(clock: Clock, spent: Spend, refused: bool) -> None:
    """MTR-2: 402 `budget_exceeded`."""
    meter = meter_of(clock, alice=BudgetConfig(100, 1.0))
    meter.count(ALICE, None, spent)

    with pytest.raises(BudgetExceeded, match="key:key_a") if refused else nullcontext():
        meter.check(ALICE, None)


def test_keys_of_a_tenant_share_the_tenants_budget_and_not_each_others(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(100), alice=BudgetConfig(10))
    meter.count(ALICE, None, TEN)

    meter.check(BOB, None)
    with pytest.raises(BudgetExceeded, match="key:key_a"):
        meter.check(ALICE, None)
    meter.count(BOB, None, Spend(90))
    with pytest.raises(BudgetExceeded, match="tenant:acme"):
        meter.check(BOB, None)


async def test_a_session_can_have_its_own_budget(clock: Clock) -> None:
    meter, own = meter_of(clock), session_budget(10)

    await call(meter, ALICE, TEN, own)

    with pytest.raises(BudgetExceeded, match="this session"):
        await meter.reserve(ALICE, own, TEN)
    await call(meter, ALICE, TEN, session_budget(10))


async def test_a_call_waits_for_another_that_may_cost_less_than_its_estimate(clock: Clock) -> None:
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


async def test_a_waiting_call_is_rejected_once_the_budget_is_exhausted(clock: Clock) -> None:
    meter = meter_of(clock, acme=BudgetConfig(15))
    first = await meter.reserve(ALICE, None, TEN)
    waiting = [asyncio.create_task(meter.reserve(principal, None, TEN)) for principal in (BOB, ALICE)]
    await settled()

    meter.count(ALICE, None, Spend(15))
    meter.release(first)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BudgetExceeded, BudgetExceeded]


async def test_a_canceled_waiting_call_reserves_nothing(clock: Clock) -> None:
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


async def test_a_call_waits_only_for_calls_on_the_same_budget(clock: Clock) -> None:
    meter = meter_of(clock, alice=BudgetConfig(10), bob=BudgetConfig(10))
    await meter.reserve(ALICE, None, TEN)

    async with asyncio.timeout(5):
        await meter.reserve(BOB, None, TEN)
        await meter.reserve(STRANGER, None, TEN)


async def test_many_concurrent_calls_overrun_the_budget_by_at_most_one(clock: Clock) -> None:
    """MTR-2."""
    meter, spent, running, most_at_once = meter_of(clock, acme=BudgetConfig(100)), 0, 0, 0

    async def one_call(principal: Principal, cost: int) -> None:
        nonlocal spent, running, most_at_once
        reservation = await meter.reserve(principal, None, Spend(30))
        running += 1
        most_at_once = max(most_at_once, running)
        await settled()
        running -= 1
        spent += cost
        meter.count(principal, None, Spend(cost))
        meter.release(reservation)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(
            *(one_call((ALICE, BOB)[n % 2], 10 + n % 21) for n in range(50)), return_exceptions=True
        )

    assert 100 <= spent < 130
    assert most_at_once == 3
    assert {type(outcome) for outcome in outcomes} == {type(None), BudgetExceeded}


async def test_a_call_without_a_budget_reserves_nothing(clock: Clock) -> None:
    meter = meter_of(clock)

    reservation = await meter.reserve(ALICE, None, TEN)
    meter.release(reservation)

    assert reservation == Reservation((), TEN)


# -- periods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "still_exhausted_on", "renewed_on"),
    [("day", "03-15", "03-16"), ("month", "03-31", "04-01"), ("total", "12-31", None)],
)
def test_a_budget_is_renewed_with_its_period(
    clock: Clock, period: str, still_exhausted_on: str, renewed_on: str | None
) -> None:
    """In UTC: the clock is set to a millisecond before midnight."""
    meter = meter_of(clock, acme=BudgetConfig(10, period=period))  # pyright: ignore[reportArgumentType]
    meter.check(ALICE, None)
    meter.count(ALICE, None, TEN)

    clock.at(still_exhausted_on)
    with pytest.raises(BudgetExceeded):
        meter.check(ALICE, None)
    if renewed_on:
        clock.at(renewed_on)
        meter.check(ALICE, None)


async def test_a_call_across_midnight_stays_reserved_and_counts_in_the_new_day(clock: Clock) -> None:
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
def test_usage_before_a_restart_counts_in_its_period(clock: Clock, period: str, counted: int) -> None:
    """MTR-1."""
    used = [
        Usage("key_a", "2026-03-15", TokenUsage(1)),
        Usage("key_b", "2026-03-01", TokenUsage(7, 3)),
        Usage("key_a", "2025-03-15", TokenUsage(100)),
    ]
    enough = meter_of(clock, acme=BudgetConfig(counted + 1, period=period))  # pyright: ignore[reportArgumentType]
    spent = meter_of(clock, acme=BudgetConfig(counted, period=period))  # pyright: ignore[reportArgumentType]

    enough.load_usage("acme", used)
    spent.load_usage("acme", used)

    enough.check(ALICE, None)
    with pytest.raises(BudgetExceeded):
        spent.check(ALICE, None)


def test_usage_of_another_tenant_or_key_does_not_count(clock: Clock) -> None:
    """HTTP-8."""
    meter = meter_of(clock, acme=BudgetConfig(10), alice=BudgetConfig(10))

    meter.load_usage("globex", [Usage("key_c", "2026-03-15", TokenUsage(100))])
    meter.load_usage("acme", [Usage("key_b", "2026-03-15", TokenUsage(9), 99.0)])

    meter.check(ALICE, None)
    meter.count(BOB, None, Spend(1))
    with pytest.raises(BudgetExceeded, match="tenant:acme"):
        meter.check(ALICE, None)


def test_budgets_are_listed_by_name(clock: Clock) -> None:
    assert meter_of(clock, acme=BudgetConfig(), bob=BudgetConfig()).names == ["tenant:acme", "key:key_b"]
