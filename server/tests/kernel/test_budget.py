"""MTR-2: the arithmetic of a budget."""

from dataclasses import dataclass

import pytest
from cmdc_gateway.kernel.budget import Budget, Spend
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

SMALL, LARGE = Spend(10, 0.5), Spend(1000, 50.0)


@pytest.mark.parametrize(
    ("budget", "exhausted"),
    [
        (Budget(), False),
        (Budget(spent=LARGE), False),
        (Budget(max_tokens=1000, spent=Spend(999)), False),
        (Budget(max_tokens=1000, spent=Spend(1000)), True),
        (Budget(max_tokens=1000, spent=Spend(1001)), True),
        (Budget(max_cost_usd=50.0, spent=Spend(5000, 49.99)), False),
        (Budget(max_cost_usd=50.0, spent=LARGE), True),
        (Budget(max_tokens=1000, max_cost_usd=99.0, spent=LARGE), True),
        (Budget(max_tokens=1000, reserved=LARGE, calls=1), False),
    ],
)
def test_a_budget_is_exhausted_once_a_limit_is_reached(budget: Budget, exhausted: bool) -> None:
    assert budget.exhausted == exhausted
    assert budget.admits(Spend()) == (not exhausted)


def test_a_budget_without_limits_admits_every_call() -> None:
    assert Budget().reserve(LARGE).reserve(LARGE).spend(LARGE).admits(LARGE)


def test_a_call_may_always_start_alone() -> None:
    assert Budget(max_tokens=11, spent=Spend(10)).admits(LARGE)


@pytest.mark.parametrize("more", [Spend(11), Spend(0, 0.51)])
def test_concurrent_calls_are_admitted_only_if_all_of_them_fit(more: Spend) -> None:
    budget = Budget(max_tokens=30, max_cost_usd=1.5).spend(SMALL).reserve(SMALL)

    assert budget.admits(SMALL)
    assert not budget.admits(more)
    assert budget.release(SMALL).admits(more)


def test_a_new_period_resets_the_spend_and_keeps_the_reservations() -> None:
    budget = Budget(max_tokens=10).spend(Spend(10)).reserve(SMALL).renewed()

    assert budget == Budget(max_tokens=10, reserved=SMALL, calls=1)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 8))))
def test_reserving_and_releasing_restores_the_budget(reservations: list[tuple[int, int]]) -> None:
    amounts = [Spend(tokens, eighths / 8) for tokens, eighths in reservations]
    budget = before = Budget(max_tokens=100)

    for amount in amounts:
        budget = budget.reserve(amount)
    for amount in amounts:
        budget = budget.release(amount)

    assert budget == before


@dataclass(frozen=True)
class Call:
    """A model call in flight: its reservation, and its actual cost."""

    reserved: Spend
    cost: Spend


MAX = Spend(100, 2.0)
eighths = st.integers(0, 40).map(lambda n: n / 8)  # sums of these are exact


class BudgetMachine(RuleBasedStateMachine):
    """Calls start when the budget admits them and end in any order; none costs more than its reservation."""

    @initialize(max_tokens=st.none() | st.just(MAX.tokens), max_cost_usd=st.none() | st.just(MAX.cost_usd))
    def begin(self, max_tokens: int | None, max_cost_usd: float | None) -> None:
        self.budget = Budget(max_tokens, max_cost_usd)
        self.running: list[Call] = []
        self.spent = Spend()
        self.largest = Spend()

    @rule(tokens=st.integers(0, 150), cost_usd=eighths, share=st.sampled_from([0, 0.5, 1, 1]))
    def a_call_starts_if_admitted(self, tokens: int, cost_usd: float, share: float) -> None:
        reserved = Spend(tokens, cost_usd)
        if self.budget.admits(reserved):
            self.budget = self.budget.reserve(reserved)
            self.running.append(Call(reserved, Spend(int(tokens * share), cost_usd * share)))

    @rule(one=st.integers(0, 9), released_first=st.booleans())
    def a_call_ends(self, one: int, released_first: bool) -> None:
        if self.running:
            call = self.running.pop(one % len(self.running))
            self.budget = self.budget.spend(call.cost).release(call.reserved)
            self.spent += call.cost
            self.largest = Spend(
                max(self.largest.tokens, call.cost.tokens), max(self.largest.cost_usd, call.cost.cost_usd)
            )

    @rule()
    def an_exhausted_budget_admits_nothing(self) -> None:
        if self.budget.exhausted:
            assert not self.budget.admits(Spend())

    @invariant()
    def at_most_one_call_overruns_the_budget(self) -> None:
        if self.budget.max_tokens is not None:
            assert self.spent.tokens < self.budget.max_tokens + max(1, self.largest.tokens)
        if self.budget.max_cost_usd is not None:
            assert self.spent.cost_usd <= self.budget.max_cost_usd + self.largest.cost_usd

    @invariant()
    def spend_and_reservations_add_up(self) -> None:
        reserved = sum((call.reserved for call in self.running), Spend())
        assert (self.budget.spent, self.budget.reserved, self.budget.calls) == (self.spent, reserved, len(self.running))


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(stateful_step_count=30)
