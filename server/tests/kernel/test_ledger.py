"""MTR-2: what may be spent, and what is."""

from dataclasses import dataclass

import pytest
from cmdc_gateway.kernel.budget import Budget, Spend
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

SMALL, LARGE = Spend(10, 0.5), Spend(1000, 50.0)


@pytest.mark.parametrize(
    ("ledger", "exhausted"),
    [
        (Budget(), False),
        (Budget(spent=LARGE), False),
        (Budget(max_tokens=1000, spent=Spend(999)), False),
        (Budget(max_tokens=1000, spent=Spend(1000)), True),
        (Budget(max_tokens=1000, spent=Spend(1001)), True),
        (Budget(max_cost_usd=50.0, spent=Spend(5000, 49.99)), False),
        (Budget(max_cost_usd=50.0, spent=LARGE), True),
        (Budget(max_tokens=1000, max_cost_usd=99.0, spent=LARGE), True),
        (Budget(max_tokens=1000, held=LARGE, calls=1), False),
    ],
)
def test_a_budget_is_exhausted_once_it_is_spent(ledger: Budget, exhausted: bool) -> None:
    assert ledger.exhausted == exhausted
    assert ledger.admits(Spend()) == (not exhausted)


def test_without_a_limit_everything_may_start() -> None:
    assert Budget().hold(LARGE).hold(LARGE).spend(LARGE).admits(LARGE)


def test_a_call_that_runs_alone_may_start_whatever_it_may_come_to() -> None:
    assert Budget(max_tokens=11, spent=Spend(10)).admits(LARGE)


@pytest.mark.parametrize("more", [Spend(11), Spend(0, 0.51)])
def test_beside_other_calls_one_starts_only_if_all_of_them_fit(more: Spend) -> None:
    ledger = Budget(max_tokens=30, max_cost_usd=1.5).spend(SMALL).hold(SMALL)

    assert ledger.admits(SMALL)
    assert not ledger.admits(more)
    assert ledger.release(SMALL).admits(more)


def test_a_new_period_forgets_what_was_spent_and_keeps_what_still_runs() -> None:
    ledger = Budget(max_tokens=10).spend(Spend(10)).hold(SMALL).renewed()

    assert ledger == Budget(max_tokens=10, held=SMALL, calls=1)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 8))))
def test_what_was_held_and_released_leaves_no_trace(holds: list[tuple[int, int]]) -> None:
    amounts = [Spend(tokens, eighths / 8) for tokens, eighths in holds]
    ledger = before = Budget(max_tokens=100)

    for amount in amounts:
        ledger = ledger.hold(amount)
    for amount in amounts:
        ledger = ledger.release(amount)

    assert ledger == before


@dataclass(frozen=True)
class Call:
    """A running model call: what is held for it, and what it will turn out to cost."""

    held: Spend
    cost: Spend


MAX = Spend(100, 2.0)
eighths = st.integers(0, 40).map(lambda n: n / 8)  # sums of these are exact


class LedgerMachine(RuleBasedStateMachine):
    """Calls start as the ledger admits them and end in any order; none comes to more than was held for it."""

    @initialize(max_tokens=st.none() | st.just(MAX.tokens), max_cost_usd=st.none() | st.just(MAX.cost_usd))
    def begin(self, max_tokens: int | None, max_cost_usd: float | None) -> None:
        self.ledger = Budget(max_tokens, max_cost_usd)
        self.running: list[Call] = []
        self.spent = Spend()
        self.dearest = Spend()

    @rule(tokens=st.integers(0, 150), cost_usd=eighths, share=st.sampled_from([0, 0.5, 1, 1]))
    def a_call_starts_if_it_may(self, tokens: int, cost_usd: float, share: float) -> None:
        held = Spend(tokens, cost_usd)
        if self.ledger.admits(held):
            self.ledger = self.ledger.hold(held)
            self.running.append(Call(held, Spend(int(tokens * share), cost_usd * share)))

    @rule(one=st.integers(0, 9), released_first=st.booleans())
    def a_call_ends(self, one: int, released_first: bool) -> None:
        if self.running:
            call = self.running.pop(one % len(self.running))
            self.ledger = self.ledger.spend(call.cost).release(call.held)
            self.spent += call.cost
            self.dearest = Spend(
                max(self.dearest.tokens, call.cost.tokens), max(self.dearest.cost_usd, call.cost.cost_usd)
            )

    @rule()
    def a_spent_budget_admits_nothing(self) -> None:
        if self.ledger.exhausted:
            assert not self.ledger.admits(Spend())

    @invariant()
    def no_more_than_one_call_goes_over_the_budget(self) -> None:
        if self.ledger.max_tokens is not None:
            assert self.spent.tokens < self.ledger.max_tokens + max(1, self.dearest.tokens)
        if self.ledger.max_cost_usd is not None:
            assert self.spent.cost_usd <= self.ledger.max_cost_usd + self.dearest.cost_usd

    @invariant()
    def it_knows_what_was_spent_and_what_is_held(self) -> None:
        held = sum((call.held for call in self.running), Spend())
        assert (self.ledger.spent, self.ledger.held, self.ledger.calls) == (self.spent, held, len(self.running))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(stateful_step_count=30)
