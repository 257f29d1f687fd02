"""Verdicts from outcomes and violations."""

from __future__ import annotations

import pytest
from cmdc_conformance.findings import Blocked, Failed, Outcome, Status, Unreadable, Violation, fails_if_blocked
from cmdc_conformance.reports.verdict import Result, decide, is_pass, with_baseline
from cmdc_conformance.requirements import requirements

MUST = requirements()["EVT-3"]
SHOULD = requirements()["HTTP-9.headers"]
EXTENDED = requirements()["EP-usage.figures"]


def outcome(status: str, message: str = "", variant: str = "raw/sse") -> Outcome:
    return Outcome(MUST.id, "a_check", variant, status, message)  # type: ignore[arg-type]


def verdict(*outcomes: Outcome, violations: int = 0, declared: bool = True, observed: int | None = None) -> Status:
    violations_seen = [Violation(MUST.id, "seen", "a check")] * violations
    return decide(MUST, outcomes, violations_seen, declared=declared, observed=observed).status


def test_a_requirement_that_passes_in_all_variants_passes() -> None:
    assert verdict(outcome("PASS"), outcome("PASS", variant="sdk/ws")) == "PASS"


def test_one_failure_outweighs_everything_else() -> None:
    assert verdict(outcome("PASS"), outcome("FAIL"), outcome("HARNESS_ERROR")) == "FAIL"


def test_a_violation_seen_by_a_monitor_is_a_failure_even_if_every_check_passed() -> None:
    assert verdict(outcome("PASS"), violations=1) == "FAIL"


def test_a_violated_should_is_a_warning_and_does_not_block_the_claim() -> None:
    result = decide(SHOULD, [outcome("FAIL")], [], declared=True, observed=None)

    assert result.status == "WARN"
    assert not result.blocks_claim


def test_a_defect_of_the_suite_is_not_a_pass() -> None:
    assert verdict(outcome("PASS"), outcome("HARNESS_ERROR")) == "HARNESS_ERROR"


def test_a_requirement_not_exercised_in_one_variant_is_not_exercised() -> None:
    assert verdict(outcome("PASS"), outcome("NOT_EXERCISED", variant="sdk/ws")) == "NOT_EXERCISED"


def test_a_requirement_without_outcomes_is_not_exercised() -> None:
    assert verdict() == "NOT_EXERCISED"


def test_a_monitored_requirement_passes_only_if_the_monitor_observed_something() -> None:
    assert verdict(observed=3) == "PASS"
    assert verdict(observed=0) == "NOT_EXERCISED"


def test_an_undeclared_feature_is_not_applicable() -> None:
    assert decide(EXTENDED, [], [], declared=False, observed=None).status == "NOT_APPLICABLE"


def test_a_requirement_is_not_applicable_if_its_checks_say_so() -> None:
    assert verdict(outcome("NOT_APPLICABLE")) == "NOT_APPLICABLE"


def test_the_message_names_the_variants() -> None:
    result = decide(MUST, [outcome("FAIL", "no"), outcome("FAIL", "no", "sdk/ws")], [], declared=True, observed=None)

    assert result.message == "no [raw/sse, sdk/ws]"


@pytest.mark.parametrize("status", ["FAIL", "NOT_EXERCISED", "HARNESS_ERROR"])
def test_a_blocking_result_is_not_a_pass(status: Status) -> None:
    assert is_pass([Result(MUST, "PASS")])
    assert not is_pass([Result(MUST, "PASS"), Result(MUST, status)])


def test_no_passing_requirement_is_not_a_pass() -> None:
    assert not is_pass([])
    assert not is_pass([Result(MUST, "NOT_APPLICABLE")])


def test_a_known_failure_does_not_block_the_claim() -> None:
    [result] = with_baseline([Result(MUST, "FAIL", "no")], {MUST.id: "being fixed"})

    assert result.status == "KNOWN"
    assert "being fixed" in result.message
    assert not result.blocks_claim


def test_a_known_failure_that_passes_is_stale_and_fails() -> None:
    [result] = with_baseline([Result(MUST, "PASS")], {MUST.id: "being fixed"})

    assert result.status == "FAIL"
    assert "remove it" in result.message


def test_a_blocked_promise_is_a_failure() -> None:
    with pytest.raises(Failed, match="after the restart: no event was received"), fails_if_blocked("after the restart"):
        raise Blocked("no event was received")


def test_a_response_that_the_client_cannot_parse_is_not_a_failure_of_the_promise() -> None:
    with pytest.raises(Unreadable), fails_if_blocked("after the restart"):
        raise Unreadable("the response has a member of the wrong type")
