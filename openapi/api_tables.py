"""Generates the tables of API.md from the contract.

Each table is between two comments:

<!-- generated: errors -->
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from cmdc_gateway.protocol.service import ErrorBody
from cmdc_gateway.settings import Settings
from cmdc_gateway.web.errors import STATUS, error_headers
from cmdc_gateway.web.schema.examples import ERRORS
from cmdc_gateway.web.schema.operations import error_meanings

Schema = dict[str, Any]

_UNITS = {"ms": "ms", "bytes": "bytes"}
"""Unit of a setting, by the last word of its name."""

_MARKED = re.compile(r"(?P<begin><!-- generated: (?P<name>[a-z]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)


class UnknownTable(ValueError):
    """API.md names a table that this module does not generate."""


def with_tables(page: str, openapi: Schema, events: Schema) -> str:
    """Return the page with its tables regenerated. Raises UnknownTable."""
    tables: dict[str, Callable[[], str]] = {
        "endpoints": lambda: endpoints(openapi),
        "errors": errors,
        "events": lambda: event_table(events),
        "settings": settings,
    }

    def regenerated(found: re.Match[str]) -> str:
        if found["name"] not in tables:
            raise UnknownTable(f"unknown table {found['name']!r}; known tables: {', '.join(tables)}")
        return f"{found['begin']}\n{tables[found['name']]()}\n\n{found['end']}"

    return _MARKED.sub(regenerated, page)


def endpoints(openapi: Schema) -> str:
    """Return the table of operations, in the order of the tags."""
    order = {tag["name"]: place for place, tag in enumerate(openapi["tags"])}
    listed = [
        (order[operation["tags"][0]], method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return _table(
        ("Endpoint", "Summary", "Success"),
        (
            (f"`{method} {path.replace('{sessionId}', '{id}')}`", operation["summary"], _successes(operation))
            for _, method, path, operation in sorted(listed, key=lambda entry: entry[0])
        ),
    )


def errors() -> str:
    """Return the table of error codes, by status."""
    meanings = error_meanings()
    return _table(
        ("Code", "Status", "Meaning", "Also in the response"),
        (
            (f"`{code}`", str(status), meanings[code], ", ".join(_extras(code)))
            for code, status in sorted(STATUS.items(), key=lambda entry: entry[1])
        ),
    )


def event_table(events: Schema) -> str:
    """Return the table of events."""
    kinds = [events["$defs"][reference["$ref"].rpartition("/")[2]] for reference in events["oneOf"]]
    return _table(
        ("Event", "Fields of `data`", "Meaning"),
        (
            (
                f"`{kind['properties']['event']['const']}`",
                ", ".join(f"`{name}`" for name in kind["properties"]["data"]["properties"] if name != "requestId")
                or "–",
                kind["description"],
            )
            for kind in kinds
        ),
    )


def settings() -> str:
    """Return the table of environment variables."""
    return _table(
        ("Variable", "Default", "Unit", "Meaning"),
        (
            (
                f"`GATEWAY_{name.upper()}`",
                _default(field.get_default(call_default_factory=False)),
                _UNITS.get(name.rpartition("_")[2], ""),
                " ".join((field.description or "").split()),
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def _successes(operation: Schema) -> str:
    return ", ".join(status for status in operation["responses"] if int(status) < 400) or "–"


def _extras(code: str) -> Iterable[str]:
    """Members and headers that this error code adds to `error` and `message`."""
    fields = {field.alias: field.description for field in ErrorBody.model_fields.values()}
    for member in ERRORS[code].members():
        description = (fields.get(member) or "").rpartition(": ")[2].rstrip(".")
        yield f"`{member}`: {description}" if description else f"`{member}`"
    for header in error_headers(ERRORS[code]):
        yield f"header `{header}`"


def _default(value: object) -> str:
    match value:
        case None | []:
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case list():
            return f"`{','.join(map(str, value))}`"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return f"`{value}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
