"""The suite's copy of the contract agrees with API.md."""

from __future__ import annotations

import re
from pathlib import Path

from cmdc_conformance.schemas import EVENTS, STATUS_OF, TERMINAL

API = (Path(__file__).parents[2] / "API.md").read_text(encoding="utf-8")


def test_every_error_code_of_the_api_is_expected_with_its_status() -> None:
    documented = {
        code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (4\d\d|5\d\d) \|", API, re.MULTILINE)
    }

    assert documented == STATUS_OF


def test_the_fifteen_events_are_those_of_the_api_and_two_of_them_end_a_run() -> None:
    assert len(EVENTS) == 15
    assert not [event for event in EVENTS if f"`{event}`" not in API]
    assert set(TERMINAL) < set(EVENTS)
