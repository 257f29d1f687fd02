"""The tables of API.md that are made from the contract; each stands between two comments.

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
"""What the last word of a setting's name says of its unit."""

_MARKED = re.compile(r"(?P<begin><!-- generated: (?P<name>[a-z]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)


class UnknownTable(ValueError):
    """API.md asks for a table that there is none of."""


def with_tables(page: str, openapi: Schema, events: Schema) -> str:
    """The page with its generated tables made anew. Raises UnknownTable."""
    tables: dict[str, Callable[[], str]] = {
        "endpoints": lambda: endpoints(openapi),
        "errors": errors,
        "events": lambda: event_table(events),
        "settings": settings,
    }

    def made(found: re.Match[str]) -> str:
        if found["name"] not in tables:
            raise UnknownTable(f"there is no table {found['name']!r}; there are {', '.join(tables)}")
        return f"{found['begin']}\n{tables[found['name']]()}\n\n{found['end']}"

    return _MARKED.sub(made, page)


def endpoints(openapi: Schema) -> str:
    """Every operation, in the order of the tags."""
    order = {tag["name"]: place for place, tag in enumerate(openapi["tags"])}
    listed = [
        (order[operation["tags"][0]], method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return _table(
        ("Route", "What it does", "Success"),
        (
            (f"`{method} {path.replace('{sessionId}', '{id}')}`", operation["summary"], _successes(operation))
            for _, method, path, operation in sorted(listed, key=lambda entry: entry[0])
        ),
    )


def errors() -> str:
    """Every error code."""
    meanings = error_meanings()
    return _table(
        ("Code", "Status", "Meaning", "Also in the answer"),
        (
            (f"`{code}`", str(status), meanings[code], ", ".join(_besides(code)))
            for code, status in sorted(STATUS.items(), key=lambda entry: entry[1])
        ),
    )


def event_table(events: Schema) -> str:
    """Every event."""
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
    """Every environment variable."""
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


def _besides(code: str) -> Iterable[str]:
    """What an error of this code has beside `error` and `message`."""
    fields = {field.alias: field.description for field in ErrorBody.model_fields.values()}
    for member in ERRORS[code].members():
        told = (fields.get(member) or "").rpartition(": ")[2].rstrip(".")
        yield f"`{member}`: {told}" if told else f"`{member}`"
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
