"""The examples of rejected JSON in docs/strict-json.md are rejected (HTTP-4)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cmdc_gateway.protocol.strict import NotStrictJson, parse_object

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "strict-json.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| [^|]+ \| `([^`]+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_rejected_json_is_rejected(example: str) -> None:
    with pytest.raises(NotStrictJson):
        parse_object(example.encode())


def test_every_row_of_the_table_has_an_example() -> None:
    table = PAGE.partition("| Input | Example | Reason |\n")[2].partition("\n\n")[0]

    assert len(EXAMPLES) == len(table.splitlines()) - 1
