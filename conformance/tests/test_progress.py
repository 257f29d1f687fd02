"""Progress output of the command."""

import asyncio
import io

import pytest
from cmdc_conformance.findings import Outcome
from cmdc_conformance.reports import table
from cmdc_conformance.reports.table import LiveTable
from cmdc_conformance.wire.http import RateLimitBackoff


def test_without_a_terminal_progress_is_a_line_every_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, out = 1000.0, io.StringIO()
    monkeypatch.setattr(table, "monotonic", lambda: now)

    with LiveTable(out, quiet=False) as live:
        for done in range(1, 31):
            now += 1
            live.progress(done, 30, Outcome("HTTP-1", "a check", "raw/sse", "PASS"))

    assert out.getvalue() == "16/30  pass 16\n30/30  pass 30\n"


def test_quiet_prints_no_progress() -> None:
    out = io.StringIO()

    with LiveTable(out, quiet=True) as live:
        live.progress(1, 1, Outcome("HTTP-1", "a check", "raw/sse", "FAIL"))

    assert out.getvalue() == ""


async def test_a_long_wait_for_the_rate_limit_is_reported_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, notices = 1000.0, list[str]()

    async def slept(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(asyncio, "sleep", slept)
    backoff = RateLimitBackoff(notices.append, lambda: now)
    for _ in range(10):
        await backoff.sleep(20)

    assert backoff.waited == 200
    assert [sentence.partition(";")[0] for sentence in notices] == ["rate limited (429): waiting 20 s"] * 4


async def test_a_short_wait_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slept(_: float) -> None:
        pass

    monkeypatch.setattr(asyncio, "sleep", slept)
    notices = list[str]()
    await RateLimitBackoff(notices.append).sleep(1)

    assert notices == []
