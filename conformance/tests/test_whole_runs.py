"""Whole runs against a gateway: what the reports say, and that a verdict can be relied on."""

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
from cmdc_conformance import Keys, Options, Report, Target, judge
from cmdc_conformance.__main__ import main
from cmdc_conformance.report import schema
from cmdc_testkit.gateways import KEY, OTHER_KEY, Served, serving

# One of each kind: plain, with a tool, by stream, by WebSocket, by the client, watched by monitors, drawn at random.
SOME = ("EP-session.get", "EP-create.names", "EVT-3", "EVT-6", "WS-4.before", "HTTP-1.fields", "APP-1.approve")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with serving(tmp_path) as gateway:
        yield gateway


def target_of(served: Served) -> Target:
    return Target(served.url, Keys(KEY, OTHER_KEY))


async def report_on(served: Served, only: tuple[str, ...] = SOME, **options: object) -> Report:
    return await judge(target_of(served), Options(profile="full", only=only, examples=3, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What a run against our gateway has come to; one requirement in it cannot be exercised."""

    async def judged() -> Report:
        async with serving(tmp_path_factory.mktemp("gateway")) as gateway:
            return await report_on(gateway, (*SOME, "HTTP-7.revoked"))

    return asyncio.run(judged())


@pytest.fixture(scope="module")
def folder(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, written."""
    folder = tmp_path_factory.mktemp("report")
    report.write(folder)
    return folder


def test_our_gateway_passes_and_every_face_was_used(report: Report) -> None:
    wrong = {result.id: result.message for result in report.results if result.status != "PASS"}

    assert set(wrong) == {"HTTP-7.revoked"}, wrong
    assert set(report.coverage["agent_end"]) == {"raw/sse", "raw/ws", "sdk/sse", "sdk/ws"}


def test_the_report_is_as_its_schema_says(folder: Path) -> None:
    jsonschema_rs.validate(schema(), json.loads((folder / "report.json").read_text()))


def test_no_report_holds_a_secret(folder: Path) -> None:
    written = [file.read_text() for file in folder.iterdir()]

    assert len(written) == 4
    assert not [text for text in written if KEY in text or OTHER_KEY in text]


def test_the_page_needs_nothing_from_elsewhere_and_names_every_requirement(report: Report, folder: Path) -> None:
    loaded: list[str] = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            loaded.extend(
                f"{tag} {value}" for name, value in attrs if name == "src" or (tag == "link" and name == "href")
            )

    page = (folder / "report.html").read_text()
    Loads().feed(page)
    assert loaded == []
    assert all(f'id="all-{result.id}"' in page for result in report.results)


def test_junit_counts_what_is_red_as_failed(report: Report, folder: Path) -> None:
    suite = ET.parse(folder / "junit.xml").getroot()

    assert (suite.get("tests"), suite.get("failures")) == (str(len(report.results)), "1")


async def test_what_could_not_be_exercised_stands_in_the_way_of_the_claim(served: Served) -> None:
    report = await report_on(served, ("HTTP-7.revoked",))

    assert report.result("HTTP-7.revoked").status == "NOT_EXERCISED"
    assert not report.passed
    assert report.claim == "is not shown to conform to full (a part of it)"


async def test_the_same_server_and_the_same_seed_give_the_same_report(served: Served) -> None:
    only = ("EP-session.get", "EVT-6", "HTTP-3.wrong-type", "HTTP-7.revoked")
    first, second = [(await report_on(served, only, seed=7, via="raw")).as_json() for _ in range(2)]

    assert first == second


async def test_the_command_exits_0_for_an_honest_pass_and_1_for_none(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--url",
        served.url,
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


async def test_a_baseline_makes_a_pass_that_was_known_to_fail_a_failure(served: Served) -> None:
    report = await report_on(served, ("EP-session.get",), baseline={"EP-session.get": "not yet"})

    assert report.result("EP-session.get").status == "FAIL"
    assert not report.passed


async def test_the_profile_base_asks_nothing_extended_of_a_server(served: Served) -> None:
    report = await judge(target_of(served), Options(profile="base", only=("EVT-3", "EP-prompt", "APP-1"), via="raw"))

    assert {result.id: result.message for result in report.results if result.status != "PASS"} == {}
    assert {result.requirement.layer for result in report.results} == {"base"}


async def test_steps_that_were_kept_are_played_again(served: Served) -> None:
    steps = [
        {"op": "create", "tenant": 0},
        {"op": "prompt", "session": 0, "kind": "guarded"},
        {"op": "decide", "session": 0, "action": "approve"},
        {"op": "read", "session": 0, "place": 2, "cut": 50},
        {"op": "script", "replies": [{"text": ["a"], "usage": {"promptTokens": 1, "completionTokens": 1}}]},
    ]
    kept = {"requirement": "SSE-6.live", "steps": steps}

    assert (await report_on(served, ("SSE-6.live",), replay=kept)).passed


async def test_a_model_of_the_session_that_differs_is_a_failure_with_the_steps_to_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdc_conformance.model.ModelSession.state", property(lambda _: "waiting_input"))
    target = Target.parse(
        {"target": {"url": served.url}, "keys": {"first": KEY, "second": OTHER_KEY}, "timing": {"deadline": 0.5}}
    )

    report = await judge(
        target, Options(profile="full", only=("SSE-6.live", "EP-session.state"), examples=2, via="raw")
    )

    result = report.result("EP-session.state")
    assert result.status == "FAIL"
    assert result.evidence[0].startswith("replay ")
    assert json.loads(result.evidence[0].removeprefix("replay "))["steps"]


async def test_pytest_has_a_test_for_each_requirement(served: Served, tmp_path: Path) -> None:
    arguments = [
        "--cmdc-url",
        served.url,
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
    said = (await process.communicate())[0].decode()

    assert "2 passed" in said, said


async def heard_from(gateway: Served) -> list[str]:
    heard: list[str] = []
    await judge(target_of(gateway), Options(profile="base", only=("EP-healthz",)), notice=heard.append)
    return heard


async def test_a_rate_limit_that_makes_a_run_last_is_told_before_it(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_rpm=600) as gateway:  # HTTP-9
        [sentence] = await heard_from(gateway)

    assert "lets 600 requests a minute through with a key, and 1 check has to wait for them" in sentence


async def test_a_server_without_a_rate_limit_is_told_nothing_of_one(served: Served) -> None:
    assert await heard_from(served) == []
