"""What the command says while it works."""

import asyncio
import io

import pytest
from cmdc_conformance import table
from cmdc_conformance.findings import Outcome
from cmdc_conformance.table import LiveTable
from cmdc_conformance.wire import Patience


def test_where_there_is_no_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, out = 1000.0, io.StringIO()
    monkeypatch.setattr(table, "monotonic", lambda: now)

    with LiveTable(out, quiet=False) as live:
        for done in range(1, 31):
            now += 1
            live.progress(done, 30, Outcome("HTTP-1", "a check", "raw/sse", "PASS"))

    assert out.getvalue() == "16/30  pass 16\n30/30  pass 30\n"


def test_whoever_wants_quiet_gets_it() -> None:
    out = io.StringIO()

    with LiveTable(out, quiet=True) as live:
        live.progress(1, 1, Outcome("HTTP-1", "a check", "raw/sse", "FAIL"))

    assert out.getvalue() == ""


async def test_a_long_wait_for_the_rate_is_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = 1000.0, list[str]()

    async def slept(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(asyncio, "sleep", slept)
    patience = Patience(told.append, lambda: now)
    for _ in range(10):
        await patience.sleep(20)

    assert patience.waited == 200
    assert [sentence[:57] for sentence in told] == ["the server answers 429 and asks for 20 s of patience: the"] * 4


async def test_a_wait_that_nobody_notices_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slept(_: float) -> None:
        pass

    monkeypatch.setattr(asyncio, "sleep", slept)
    told = list[str]()
    await Patience(told.append).sleep(1)

    assert told == []
