"""Every mutant fails the requirement that it violates, and only that one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

import pytest
from broken_gateways.harness import Harness
from broken_gateways.mutants import MUTANTS, Mutant
from cmdc_conformance.checks.catalog import checks
from cmdc_conformance.reports.report import Report
from cmdc_conformance.requirements import requirements
from cmdc_conformance.run.options import Options

_PARALLEL: Final = 6
# The checks of these requirements mostly wait, for up to 50 seconds, so they run beside all others.
_SLOW: Final = ("SSE-10.closed", "HTTP-9.limit", "WS-6.ping", "WS-6.pong", "WS-6.slow")
# The long form runs as many examples of each property as a user would.
_EXAMPLES: Final = 3
_MODEL_ONLY: Final = tuple(each.id for each in requirements().values() if each.driver == "model")
_UNPATCHED: Final = ("scripted", "model")
# In seconds. The unpatched gateway shares the machine with the mutants, and never keeps a check waiting until the end.
_UNPATCHED_DEADLINE: Final = 30.0


def _driver(mutant: Mutant) -> str:
    """Only the suite's own model shows what a server sends to a model."""
    return "model" if mutant.requirement.startswith("MODEL-") else "scripted"


def _is_tested_via_sdk(mutant: Mutant) -> bool:
    """Whether the checks of the requirement have a variant that uses the Python client."""
    variants = [
        variant for check in checks().values() if check.requirement == mutant.requirement for variant in check.variants
    ]
    return any(variant.via == "sdk" for variant in variants)


_TESTED_VIA_SDK = {name: mutant for name, mutant in MUTANTS.items() if _is_tested_via_sdk(mutant)}


def _selected(request: pytest.FixtureRequest) -> tuple[list[Mutant], bool]:
    """The mutants that this pytest run needs, and whether it needs the unpatched gateway."""
    here = [item for item in request.session.items if item.path == Path(__file__) and isinstance(item, pytest.Function)]
    uses_reports = [item for item in here if "reports" in item.fixturenames and "mutant" in item.fixturenames]
    chosen = {cast("Mutant", item.callspec.params["mutant"]).name for item in uses_reports}
    unpatched = any(item.originalname == test_the_unpatched_gateway_passes.__name__ for item in here)
    return [mutant for name, mutant in MUTANTS.items() if name in chosen], unpatched


@pytest.fixture(scope="session")
def reports(request: pytest.FixtureRequest, harness: Harness) -> Iterator[dict[str, Future[Report]]]:
    """The report on each mutant, limited to the requirement that it violates, and those on the unpatched gateway."""

    def run_mutant(mutant: Mutant) -> Report:
        via = "both" if mutant.name in _TESTED_VIA_SDK else "raw"
        only = (mutant.requirement, *mutant.shown_by)
        options = Options(profile="full", via=via, only=only, examples=_EXAMPLES)
        return harness.run(mutant.name, options, driver=_driver(mutant))

    def run_unpatched(driver: str) -> Report:
        only = _MODEL_ONLY if driver == "model" else ()
        options = Options(profile="full", via="raw", only=only, examples=_EXAMPLES)
        return harness.run(None, options, driver=driver, deadline=_UNPATCHED_DEADLINE)

    mutants, unpatched = _selected(request)
    slow = sum(mutant.requirement in _SLOW for mutant in mutants) + len(_UNPATCHED)
    with ThreadPoolExecutor(slow) as waiting, ThreadPoolExecutor(_PARALLEL) as working:
        futures = {driver: waiting.submit(run_unpatched, driver) for driver in (_UNPATCHED if unpatched else ())}
        for mutant in mutants:
            pool = waiting if mutant.requirement in _SLOW else working
            futures[mutant.name] = pool.submit(run_mutant, mutant)
        yield futures
        waiting.shutdown(cancel_futures=True)
        working.shutdown(cancel_futures=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_mutant_fails_the_requirement_that_it_violates(mutant: Mutant, reports: dict[str, Future[Report]]) -> None:
    result = reports[mutant.name].result().result(mutant.requirement)

    assert result.status in ("FAIL", "WARN"), f"{mutant.fault} {result.status}: {result.message}"
    failing = {outcome.variant.partition("/")[0] for outcome in result.outcomes if outcome.status == "FAIL"}
    assert failing != {"sdk"}, [f"{outcome.variant} {outcome.status} {outcome.message}" for outcome in result.outcomes]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", _TESTED_VIA_SDK.values(), ids=list(_TESTED_VIA_SDK))
def test_a_mutant_fails_via_the_client_unless_the_client_hides_its_fault(
    mutant: Mutant, reports: dict[str, Future[Report]]
) -> None:
    outcomes = reports[mutant.name].result().result(mutant.requirement).outcomes

    statuses = {
        outcome.variant: f"{outcome.status} {outcome.message}"
        for outcome in outcomes
        if outcome.variant.startswith("sdk")
    }
    assert statuses, "no check ran via the client"
    fails = any(status.startswith("FAIL") for status in statuses.values())
    assert fails is (mutant.hidden_from_sdk is None), f"{statuses}; hidden: {mutant.hidden_from_sdk}"


def test_a_fault_that_the_client_hides_is_tested_via_the_client() -> None:
    hidden = {name for name, mutant in MUTANTS.items() if mutant.hidden_from_sdk is not None}

    assert hidden <= set(_TESTED_VIA_SDK)


@pytest.mark.timeout(300)
def test_the_unpatched_gateway_passes(reports: dict[str, Future[Report]]) -> None:
    violated = {mutant.requirement for mutant in MUTANTS.values()}

    statuses = {
        result.id: result.status
        for driver in _UNPATCHED
        for result in reports[driver].result().results
        if result.status != "NOT_EXERCISED"
    }
    assert {name: status for name, status in statuses.items() if status != "PASS" and name in violated} == {}
    assert violated <= set(statuses)


def test_every_observable_requirement_has_a_mutant() -> None:
    observable = {each.id for each in requirements().values() if each.unobservable is None}

    assert {mutant.requirement for mutant in MUTANTS.values()} == observable


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_mutant_fails_no_other_requirement(mutant: Mutant, harness: Harness) -> None:
    report = harness.run(mutant.name, Options(profile="full"), driver=_driver(mutant))

    failed = {result.id: result.message for result in report.results if result.status in ("FAIL", "WARN")}
    assert mutant.requirement in failed, mutant.fault
    assert {name: why for name, why in failed.items() if name not in mutant.entails | {mutant.requirement}} == {}
