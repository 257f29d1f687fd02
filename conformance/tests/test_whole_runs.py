"""Complete runs against a gateway, and their reports."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema_rs
import pytest
import pytest_asyncio
from cmdc_conformance import Keys, Options, Report, Target, run_suite_async, write_report
from cmdc_conformance.__main__ import main
from cmdc_conformance.reports.report import schema
from cmdc_testkit.gateways import KEY, OTHER_KEY, InProcessGateway, in_process_gateway

shares_gateway = pytest.mark.asyncio(loop_scope="module")

# One of each kind: a request, a tool, a stream, a WebSocket, the client, a monitor, a property.
SAMPLE = ("EP-session.get", "EP-create.names", "EVT-3", "EVT-6", "WS-4.before", "HTTP-1.fields", "APP-1.approve")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[InProcessGateway]:
    """A gateway that all tests share."""
    async with in_process_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def target_of(gateway: InProcessGateway) -> Target:
    return Target(gateway.url, Keys(KEY, OTHER_KEY))


async def report_on(gateway: InProcessGateway, only: tuple[str, ...] = SAMPLE, **options: object) -> Report:
    return await run_suite_async(target_of(gateway), Options(profile="full", only=only, examples=3, **options))  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def report(gateway: InProcessGateway) -> Report:
    """The report of a run against our gateway. One of its requirements cannot be exercised."""
    return await report_on(gateway, (*SAMPLE, "HTTP-7.revoked"))


@pytest.fixture(scope="module")
def folder(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the report was written to."""
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return folder


def test_our_gateway_passes_in_every_variant(report: Report) -> None:
    not_passed = {result.id: result.message for result in report.results if result.status != "PASS"}

    assert set(not_passed) == {"HTTP-7.revoked"}, not_passed
    assert set(report.coverage["agent_end"]) == {"raw/sse", "raw/ws", "sdk/sse", "sdk/ws"}


def test_the_report_matches_its_schema(folder: Path) -> None:
    jsonschema_rs.validate(schema(), json.loads((folder / "report.json").read_text()))


def test_no_report_contains_a_secret(folder: Path) -> None:
    written = [file.read_text() for file in folder.iterdir()]

    assert len(written) == 4
    assert not [text for text in written if KEY in text or OTHER_KEY in text]


def test_the_page_is_self_contained_and_lists_every_requirement(report: Report, folder: Path) -> None:
    external: list[str] = []

    class ExternalResources(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            external.extend(
                f"{tag} {value}" for name, value in attrs if name == "src" or (tag == "link" and name == "href")
            )

    page = (folder / "report.html").read_text()
    ExternalResources().feed(page)
    assert external == []
    assert all(f'id="all-{result.id}"' in page for result in report.results)


def test_junit_counts_blocking_results_as_failures(report: Report, folder: Path) -> None:
    suite = ET.parse(folder / "junit.xml").getroot()

    assert (suite.get("tests"), suite.get("failures")) == (str(len(report.results)), "1")


@shares_gateway
async def test_a_requirement_that_is_not_exercised_blocks_the_claim(gateway: InProcessGateway) -> None:
    report = await report_on(gateway, ("HTTP-7.revoked",))

    assert report.result("HTTP-7.revoked").status == "NOT_EXERCISED"
    assert not report.passed
    assert report.claim == "is not shown to conform to full (a part of it)"


@shares_gateway
async def test_the_same_seed_gives_the_same_report(gateway: InProcessGateway) -> None:
    only = ("EP-session.get", "EVT-6", "HTTP-3.wrong-type", "HTTP-7.revoked")
    first, second = [(await report_on(gateway, only, seed=7, via="raw")).as_json() for _ in range(2)]

    assert first == second


@shares_gateway
async def test_the_command_exits_with_0_for_a_pass_and_1_otherwise(
    gateway: InProcessGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--url",
        gateway.url,
        "--key",
        KEY,
        "--second-key",
        OTHER_KEY,
        "--profile",
        "full",
        "--report",
        f"{tmp_path}",
    ]
    passed = await asyncio.to_thread(main, [*common, "--only", "EP-session.get"])
    failed = await asyncio.to_thread(main, [*common, "--only", "HTTP-7.revoked"])

    assert (passed, failed) == (0, 1)
    assert "conforms to full (a part of it)" in capsys.readouterr().out


@shares_gateway
async def test_a_stale_baseline_entry_is_a_failure(gateway: InProcessGateway) -> None:
    report = await report_on(gateway, ("EP-session.get",), baseline={"EP-session.get": "not yet"})

    assert report.result("EP-session.get").status == "FAIL"
    assert not report.passed


@shares_gateway
async def test_the_profile_base_requires_nothing_extended(gateway: InProcessGateway) -> None:
    report = await run_suite_async(
        target_of(gateway), Options(profile="base", only=("EVT-3", "EP-prompt", "APP-1"), via="raw")
    )

    assert {result.id: result.message for result in report.results if result.status != "PASS"} == {}
    assert {result.requirement.layer for result in report.results} == {"base"}


@shares_gateway
async def test_a_replay_file_is_executed(gateway: InProcessGateway) -> None:
    steps = [
        {"op": "create", "tenant": 0},
        {"op": "prompt", "session": 0, "kind": "guarded"},
        {"op": "decide", "session": 0, "action": "approve"},
        {"op": "read", "session": 0, "place": 2, "cut": 50},
        {"op": "script", "replies": [{"text": ["a"], "usage": {"promptTokens": 1, "completionTokens": 1}}]},
    ]
    replay = {"requirement": "SSE-6.live", "steps": steps}

    assert (await report_on(gateway, ("SSE-6.live",), replay=replay)).passed


@shares_gateway
async def test_a_difference_from_the_reference_model_is_a_failure_with_a_replay_file(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cmdc_conformance.checks.properties.reference_model.ReferenceSession.state", property(lambda _: "waiting_input")
    )
    target = Target.parse(
        {"target": {"url": gateway.url}, "keys": {"first": KEY, "second": OTHER_KEY}, "timing": {"deadline": 0.5}}
    )

    report = await run_suite_async(
        target, Options(profile="full", only=("SSE-6.live", "EP-session.state"), examples=2, via="raw")
    )

    result = report.result("EP-session.state")
    assert result.status == "FAIL"
    assert result.evidence[0].startswith("replay ")
    assert json.loads(result.evidence[0].removeprefix("replay "))["steps"]


@shares_gateway
async def test_pytest_has_one_test_per_requirement(gateway: InProcessGateway, tmp_path: Path) -> None:
    arguments = [
        "--cmdc-url",
        gateway.url,
        "--cmdc-key",
        KEY,
        "--cmdc-only",
        "EP-session.get",
        "--cmdc-only",
        "EP-healthz",
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "--pyargs", "cmdc_conformance", "-q", "-p", "no:cacheprovider", *arguments),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()

    assert "2 passed" in output, output


async def notices_about(gateway: InProcessGateway) -> list[str]:
    notices: list[str] = []
    await run_suite_async(target_of(gateway), Options(profile="base", only=("EP-healthz",)), notice=notices.append)
    return notices


@shares_gateway
async def test_a_low_rate_limit_is_reported_before_the_run(tmp_path: Path) -> None:
    async with in_process_gateway(tmp_path, rate_limit_rpm=600) as gateway:  # HTTP-9
        [sentence] = await notices_about(gateway)

    assert "allows 600 requests a minute per key, so 1 check will mostly wait" in sentence


@shares_gateway
async def test_a_server_without_a_rate_limit_causes_no_notice(gateway: InProcessGateway) -> None:
    assert await notices_about(gateway) == []
