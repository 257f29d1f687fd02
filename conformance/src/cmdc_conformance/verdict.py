"""From what the checks and the monitors said to one verdict for each requirement, and one for the whole. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cmdc_conformance.findings import Outcome, Status
from cmdc_conformance.monitors import Violation
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
    def is_red(self) -> bool:
        """Whether it stands in the way of a claim."""
        return self.status in ("FAIL", "NOT_EXERCISED", "HARNESS_ERROR") and self.requirement.level == "MUST"


def verdict_on(
    requirement: Requirement,
    outcomes: Sequence[Outcome],
    violations: Sequence[Violation],
    *,
    declared: bool,
    observed: int | None,
) -> Result:
    """Judge one requirement.

    `declared` is whether the server says that it does this; `observed` is how often a monitor had something to look at,
    None where no monitor looks.
    """
    bad: Status = "FAIL" if requirement.level == "MUST" else "WARN"
    failed = [outcome for outcome in outcomes if outcome.status == "FAIL"]
    if failed:
        return Result(requirement, bad, _said(failed), failed[0].evidence, tuple(outcomes))
    if violations:
        first = violations[0]
        message = f"{first.message} (seen by a monitor, in {first.check})"
        return Result(requirement, bad, message, first.evidence, tuple(outcomes))
    broken = [outcome for outcome in outcomes if outcome.status == "HARNESS_ERROR"]
    if broken:
        return Result(requirement, "HARNESS_ERROR", _said(broken), broken[0].evidence, tuple(outcomes))
    if not declared:
        message = f"the server does not declare {requirement.feature}"
        return Result(requirement, "NOT_APPLICABLE", message, (), tuple(outcomes))
    missing = [outcome for outcome in outcomes if outcome.status == "NOT_EXERCISED"]
    if missing:
        return Result(requirement, "NOT_EXERCISED", _said(missing), missing[0].evidence, tuple(outcomes))
    passed = any(outcome.status == "PASS" for outcome in outcomes)
    if passed or observed:
        return Result(requirement, "PASS", "", (), tuple(outcomes))
    if outcomes:
        return Result(requirement, "NOT_APPLICABLE", _said(outcomes), (), tuple(outcomes))
    message = "nothing came that could be judged" if observed is not None else "no check was made"
    return Result(requirement, "NOT_EXERCISED", message)


def with_baseline(results: Sequence[Result], known: Mapping[str, str]) -> list[Result]:
    """The results, with failures that are known marked so; an entry of the baseline that does not fail any more fails."""
    return [_with_baseline(result, known.get(result.id)) for result in results]


def _with_baseline(result: Result, reason: str | None) -> Result:
    if reason is None:
        return result
    if result.status == "FAIL":
        return replace(result, status="KNOWN", message=f"known: {reason} ({result.message})")
    if result.status == "PASS":
        stale = "the baseline has it as a known failure, and it passes: take it out"
        return replace(result, status="FAIL", message=stale)
    return result


def is_honest_pass(results: Collection[Result]) -> bool:
    """Whether every MUST passed and was exercised; and something was."""
    return any(result.status == "PASS" for result in results) and not any(result.is_red for result in results)


def _said(outcomes: Sequence[Outcome]) -> str:
    """The messages, each once, with the faces they came from."""
    faces: dict[str, set[str]] = {}
    for outcome in outcomes:
        faces.setdefault(outcome.message, set()).add(outcome.face)
    first, *more = faces.items()
    said = f"{first[0]} [{', '.join(sorted(first[1]))}]"
    return f"{said} (and {len(more)} more)" if more else said
