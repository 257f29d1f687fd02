"""From outcomes and violations to verdicts."""

from __future__ import annotations

import pytest
from cmdc_conformance.findings import Blocked, Failed, Outcome, Status, Unreadable, owed
from cmdc_conformance.monitors import Violation
from cmdc_conformance.requirements import requirements
from cmdc_conformance.verdict import Result, is_honest_pass, verdict_on, with_baseline

MUST = requirements()["EVT-3"]
SHOULD = requirements()["HTTP-9.headers"]
EXTENDED = requirements()["EP-usage.figures"]


def outcome(status: str, message: str = "", face: str = "raw/sse") -> Outcome:
    return Outcome(MUST.id, "a_check", face, status, message)  # type: ignore[arg-type]


def verdict(*outcomes: Outcome, violations: int = 0, declared: bool = True, observed: int | None = None) -> Status:
    seen = [Violation(MUST.id, "seen", "a check")] * violations
    return verdict_on(MUST, outcomes, seen, declared=declared, observed=observed).status


def test_what_passed_everywhere_is_a_pass() -> None:
    assert verdict(outcome("PASS"), outcome("PASS", face="sdk/ws")) == "PASS"


def test_one_failure_is_a_failure_whatever_else_passed() -> None:
    assert verdict(outcome("PASS"), outcome("FAIL"), outcome("HARNESS_ERROR")) == "FAIL"


def test_what_a_monitor_saw_is_a_failure_though_every_check_passed() -> None:
    assert verdict(outcome("PASS"), violations=1) == "FAIL"


def test_a_should_that_is_broken_is_a_warning_and_does_not_stand_in_the_way() -> None:
    result = verdict_on(SHOULD, [outcome("FAIL")], [], declared=True, observed=None)

    assert result.status == "WARN"
    assert not result.is_red


def test_a_defect_of_the_suite_is_no_pass() -> None:
    assert verdict(outcome("PASS"), outcome("HARNESS_ERROR")) == "HARNESS_ERROR"


def test_what_was_not_exercised_on_one_face_was_not_exercised() -> None:
    assert verdict(outcome("PASS"), outcome("NOT_EXERCISED", face="sdk/ws")) == "NOT_EXERCISED"


def test_what_no_check_looked_at_was_not_exercised() -> None:
    assert verdict() == "NOT_EXERCISED"


def test_what_a_monitor_judges_passes_only_if_it_saw_something() -> None:
    assert verdict(observed=3) == "PASS"
    assert verdict(observed=0) == "NOT_EXERCISED"


def test_what_the_server_does_not_declare_does_not_apply() -> None:
    assert verdict_on(EXTENDED, [], [], declared=False, observed=None).status == "NOT_APPLICABLE"


def test_what_checks_say_does_not_apply_does_not() -> None:
    assert verdict(outcome("NOT_APPLICABLE")) == "NOT_APPLICABLE"


def test_the_message_says_on_which_faces_it_was() -> None:
    result = verdict_on(
        MUST, [outcome("FAIL", "no"), outcome("FAIL", "no", "sdk/ws")], [], declared=True, observed=None
    )

    assert result.message == "no [raw/sse, sdk/ws]"


@pytest.mark.parametrize("status", ["FAIL", "NOT_EXERCISED", "HARNESS_ERROR"])
def test_nothing_red_is_an_honest_pass(status: Status) -> None:
    assert is_honest_pass([Result(MUST, "PASS")])
    assert not is_honest_pass([Result(MUST, "PASS"), Result(MUST, status)])


def test_nothing_at_all_is_no_honest_pass() -> None:
    assert not is_honest_pass([])
    assert not is_honest_pass([Result(MUST, "NOT_APPLICABLE")])


def test_a_known_failure_is_known_and_does_not_stand_in_the_way() -> None:
    [result] = with_baseline([Result(MUST, "FAIL", "no")], {MUST.id: "being mended"})

    assert result.status == "KNOWN"
    assert "being mended" in result.message
    assert not result.is_red


def test_a_known_failure_that_passes_is_a_stale_entry_and_fails() -> None:
    [result] = with_baseline([Result(MUST, "PASS")], {MUST.id: "being mended"})

    assert result.status == "FAIL"
    assert "take it out" in result.message


def test_what_is_owed_and_does_not_come_is_a_failure() -> None:
    with pytest.raises(Failed, match="after the restart: no event came"), owed("after the restart"):
        raise Blocked("no event came")


def test_what_the_client_could_not_read_says_nothing_of_what_was_owed() -> None:
    with pytest.raises(Unreadable), owed("after the restart"):
        raise Unreadable("the answer has a member that is not as it must be")
