"""Every broken gateway is found out, by the check that names what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from broken_gateways.bench import Bench
from broken_gateways.mutants import MUTANTS, Mutant
from cmdc_conformance.check import checks
from cmdc_conformance.report import Report
from cmdc_conformance.requirements import requirements
from cmdc_conformance.runner import Options

_AT_ONCE = 6
# What these requirements promise takes its time to be missed: they are waited for beside all the others.
_SLOW = ("SSE-10.closed", "HTTP-9.limit", "WS-6.ping", "WS-6.pong", "WS-6.slow")


def _driver(mutant: Mutant) -> str:
    """What a model is told can only be seen by a model of the suite's own."""
    return "model" if mutant.requirement.startswith("MODEL-") else "scripted"


def _concerns_the_client(mutant: Mutant) -> bool:
    """Whether what is broken is judged through the client too."""
    faces = [face for check in checks().values() if check.requirement == mutant.requirement for face in check.faces]
    return any(face.via == "sdk" for face in faces)


_SEEN_BY_THE_CLIENT = {name: mutant for name, mutant in MUTANTS.items() if _concerns_the_client(mutant)}


def _selected(request: pytest.FixtureRequest) -> list[Mutant]:
    """The mutants that this run of pytest judges."""
    judging = {
        each.__name__ for each in (test_a_broken_gateway_fails_the_requirement_it_breaks, test_the_client_shows_it)
    }
    here = [item for item in request.session.items if item.path == Path(__file__) and isinstance(item, pytest.Function)]
    chosen = {cast("Mutant", item.callspec.params["mutant"]).name for item in here if item.originalname in judging}
    return [mutant for name, mutant in MUTANTS.items() if name in chosen]


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest, bench: Bench) -> Iterator[dict[str, Future[Report]]]:
    """What the suite says of each mutant when it looks at nothing but the requirement that is broken."""

    def judge(mutant: Mutant) -> Report:
        via = "both" if mutant.name in _SEEN_BY_THE_CLIENT else "raw"
        options = Options(profile="full", via=via, only=(mutant.requirement, *mutant.shown_by))
        return bench.judge(mutant.name, options, driver=_driver(mutant))

    with ThreadPoolExecutor(len(_SLOW)) as waiting, ThreadPoolExecutor(_AT_ONCE) as threads:
        yield {
            mutant.name: (waiting if mutant.requirement in _SLOW else threads).submit(judge, mutant)
            for mutant in _selected(request)
        }
        waiting.shutdown(cancel_futures=True)
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
    result = found[mutant.name].result().result(mutant.requirement)

    assert result.status in ("FAIL", "WARN"), f"{mutant.fault} {result.status}: {result.message}"
    failing = {outcome.face.partition("/")[0] for outcome in result.outcomes if outcome.status == "FAIL"}
    assert failing != {"sdk"}, [f"{outcome.face} {outcome.status} {outcome.message}" for outcome in result.outcomes]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", _SEEN_BY_THE_CLIENT.values(), ids=list(_SEEN_BY_THE_CLIENT))
def test_the_client_shows_it(mutant: Mutant, found: dict[str, Future[Report]]) -> None:
    """Unless it hides it, and the mutant says why; then it must not show."""
    outcomes = found[mutant.name].result().result(mutant.requirement).outcomes

    said = {outcome.face: outcome.status for outcome in outcomes if outcome.face.startswith("sdk")}
    assert said, "nothing was judged through the client"
    assert ("FAIL" in said.values()) is (mutant.hidden_from_sdk is None), f"{said}; hidden: {mutant.hidden_from_sdk}"


def test_what_is_hidden_from_the_client_is_judged_through_it() -> None:
    hidden = {name for name, mutant in MUTANTS.items() if mutant.hidden_from_sdk is not None}

    assert hidden <= set(_SEEN_BY_THE_CLIENT)


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
