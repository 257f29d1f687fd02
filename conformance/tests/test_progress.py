"""What the command says while it works."""

import io

import pytest
from cmdc_conformance import table
from cmdc_conformance.findings import Outcome
from cmdc_conformance.table import LiveTable


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
