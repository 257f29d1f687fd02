"""Every broken gateway is found out, by the check that names what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from broken_gateways.bench import Bench
from broken_gateways.mutants import MUTANTS, Mutant
from cmdc_conformance.report import Report
from cmdc_conformance.requirements import requirements
from cmdc_conformance.runner import Options

_AT_ONCE = 8
# What these requirements promise takes its time to be missed: they are judged first, beside all the others.
_SLOW = ("SSE-10.closed", "HTTP-9.limit", "WS-6.ping", "WS-6.pong", "WS-6.slow")


def _driver(mutant: Mutant) -> str:
    """What a model is told can only be seen by a model of the suite's own."""
    return "model" if mutant.requirement.startswith("MODEL-") else "scripted"


def _selected(request: pytest.FixtureRequest) -> list[Mutant]:
    """The mutants that this run of pytest judges."""
    judging = test_a_broken_gateway_fails_the_requirement_it_breaks.__name__
    here = [item for item in request.session.items if item.path == Path(__file__) and isinstance(item, pytest.Function)]
    mutants = [cast("Mutant", item.callspec.params["mutant"]) for item in here if item.originalname == judging]
    return sorted(mutants, key=lambda mutant: mutant.requirement not in _SLOW)


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest, bench: Bench) -> Iterator[dict[str, Future[Report]]]:
    """What the suite says of each mutant when it looks at nothing but the requirement that is broken."""

    def judge(mutant: Mutant) -> Report:
        options = Options(profile="full", via="raw", only=(mutant.requirement, *mutant.shown_by))
        return bench.judge(mutant.name, options, driver=_driver(mutant))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        yield {mutant.name: threads.submit(judge, mutant) for mutant in _selected(request)}
        threads.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def control(bench: Bench) -> dict[str, str]:
    """The status of every requirement when the gateway is as it should be."""
    status: dict[str, str] = {}
    for driver in ("scripted", "model"):
        report = bench.judge(None, Options(profile="full", via="raw"), driver=driver)
        status |= {result.id: result.status for result in report.results if result.status != "NOT_EXERCISED"}
    return status


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_broken_gateway_fails_the_requirement_it_breaks(mutant: Mutant, found: dict[str, Future[Report]]) -> None:
    report = found[mutant.name].result()

    status = {result.id: f"{result.status} {result.message}" for result in report.results}
    assert status[mutant.requirement].startswith(("FAIL", "WARN")), mutant.fault


@pytest.mark.timeout(300)
def test_the_gateway_that_is_not_broken_fails_nothing(control: dict[str, str]) -> None:
    broken = {mutant.requirement for mutant in MUTANTS.values()}

    assert {name: status for name, status in control.items() if status != "PASS" and name in broken} == {}


def test_every_requirement_that_can_be_observed_is_broken_by_a_mutant() -> None:
    observable = {each.id for each in requirements().values() if each.unobservable is None}

    assert {mutant.requirement for mutant in MUTANTS.values()} == observable


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_gateway_broken_in_one_way_fails_in_no_other(mutant: Mutant, bench: Bench) -> None:
    report = bench.judge(mutant.name, Options(profile="full"), driver=_driver(mutant))

    failed = {result.id: result.message for result in report.results if result.status in ("FAIL", "WARN")}
    assert mutant.requirement in failed, mutant.fault
    assert {name: why for name, why in failed.items() if name not in mutant.entails | {mutant.requirement}} == {}
