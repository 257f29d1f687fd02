"""Verdicts: from the outcomes of checks and the violations seen by monitors to one result per requirement. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cmdc_conformance.findings import Outcome, Status, Violation
from cmdc_conformance.requirements import Requirement


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one requirement."""

    requirement: Requirement
    status: Status
    message: str = ""
    evidence: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    @property
    def id(self) -> str:
        return self.requirement.id

    @property
    def blocks_claim(self) -> bool:
        """Whether the server cannot claim conformance because of this result."""
        return self.status in ("FAIL", "NOT_EXERCISED", "HARNESS_ERROR") and self.requirement.level == "MUST"


def decide(
    requirement: Requirement,
    outcomes: Sequence[Outcome],
    violations: Sequence[Violation],
    *,
    declared: bool,
    observed: int | None,
) -> Result:
    """Decide on one requirement.

    `declared` is whether the server declares the feature that the requirement belongs to. `observed` is how often a
    monitor had something to validate; None if no monitor covers the requirement.
    """
    bad: Status = "FAIL" if requirement.level == "MUST" else "WARN"
    failed = [outcome for outcome in outcomes if outcome.status == "FAIL"]
    if failed:
        return Result(requirement, bad, _summary(failed), failed[0].evidence, tuple(outcomes))
    if violations:
        first = violations[0]
        message = f"{first.message} (seen by a monitor during {first.check})"
        return Result(requirement, bad, message, first.evidence, tuple(outcomes))
    broken = [outcome for outcome in outcomes if outcome.status == "HARNESS_ERROR"]
    if broken:
        return Result(requirement, "HARNESS_ERROR", _summary(broken), broken[0].evidence, tuple(outcomes))
    if not declared:
        message = f"the server does not declare {requirement.feature}"
        return Result(requirement, "NOT_APPLICABLE", message, (), tuple(outcomes))
    missing = [outcome for outcome in outcomes if outcome.status == "NOT_EXERCISED"]
    if missing:
        return Result(requirement, "NOT_EXERCISED", _summary(missing), missing[0].evidence, tuple(outcomes))
    passed = any(outcome.status == "PASS" for outcome in outcomes)
    if passed or observed:
        return Result(requirement, "PASS", "", (), tuple(outcomes))
    if outcomes:
        return Result(requirement, "NOT_APPLICABLE", _summary(outcomes), (), tuple(outcomes))
    message = "the monitor had nothing to validate" if observed is not None else "no check ran"
    return Result(requirement, "NOT_EXERCISED", message)


def with_baseline(results: Sequence[Result], known: Mapping[str, str]) -> list[Result]:
    """Mark known failures as KNOWN. A baseline entry whose requirement passes is stale and becomes a failure."""
    return [_with_baseline(result, known.get(result.id)) for result in results]


def _with_baseline(result: Result, reason: str | None) -> Result:
    if reason is None:
        return result
    if result.status == "FAIL":
        return replace(result, status="KNOWN", message=f"known: {reason} ({result.message})")
    if result.status == "PASS":
        stale = "passes, but the baseline lists it as a known failure: remove it from the baseline"
        return replace(result, status="FAIL", message=stale)
    return result


def is_pass(results: Collection[Result]) -> bool:
    """Whether every MUST passed and was exercised, and at least one requirement passed."""
    return any(result.status == "PASS" for result in results) and not any(result.blocks_claim for result in results)


def _summary(outcomes: Sequence[Outcome]) -> str:
    """The first message with the variants that reported it, and the number of other messages."""
    variants: dict[str, set[str]] = {}
    for outcome in outcomes:
        variants.setdefault(outcome.message, set()).add(outcome.variant)
    first, *more = variants.items()
    text = f"{first[0]} [{', '.join(sorted(first[1]))}]"
    return f"{text} (and {len(more)} more)" if more else text
