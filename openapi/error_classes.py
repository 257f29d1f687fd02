"""The client's error classes, generated from openapi.json.

The codes are the names of the examples of the error responses. The status is that of the response, and the docstring is
the summary of the example. A member of `ErrorBody` whose description begins with one word and a code, as in
"With `already_resolved`:", becomes a property of the class of that code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

Schema = dict[str, Any]

_HEAD = '''\
"""One exception class per error code of the protocol. Written by `nox -s contract`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cmdc_client.base_errors import ApiError
'''

_OF_ONE_CODE = re.compile(r"\w+ `(?P<code>\w+)`[:,] (?P<text>.+)", re.DOTALL)
_ON_THE_BASE_CLASS = {"retryAfter"}


class UnsupportedErrors(ValueError):
    """The document describes its errors in a way that this module does not support."""


def error_classes(document: Schema) -> str:
    """Return the source of the module, not yet formatted. Raises UnsupportedErrors."""
    statuses = _statuses(document)
    codes = sorted(statuses, key=lambda code: (statuses[code], code))
    members = _members_by_code(document["components"]["schemas"]["ErrorBody"])
    if unknown := members.keys() - statuses.keys():
        raise UnsupportedErrors(f"ErrorBody describes members of unknown codes: {', '.join(sorted(unknown))}")
    summaries = {code: document["components"]["examples"][code]["summary"] for code in codes}
    classes = [_class(code, statuses[code], summaries[code], members.get(code, {})) for code in codes]
    entries = [f'    "{code}": {class_name(code)},' for code in codes]
    table = "ERRORS_BY_CODE: Final[Mapping[str, type[ApiError]]] = {\n" + "\n".join(entries) + "\n}"
    return "\n\n\n".join([_HEAD, *classes, table]) + "\n"


def class_name(code: str) -> str:
    """Return the class name of an error code: `NotFound` for `not_found`."""
    return "".join(word.capitalize() for word in code.split("_"))


def _statuses(document: Schema) -> dict[str, int]:
    statuses: dict[str, int] = {}
    for code, status in _described_errors(document):
        if statuses.setdefault(code, status) != status:
            raise UnsupportedErrors(f"{code} has the status {status} and also {statuses[code]}")
    return statuses


def _described_errors(document: Schema) -> Iterator[tuple[str, int]]:
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                yield from ((code, int(status)) for code in _codes(response))
    # A shared response belongs to no operation and so has no status: its code is the name of one.
    for response in document["components"]["responses"].values():
        yield from ((code, HTTPStatus[code.upper()].value) for code in _codes(response))


def _codes(response: Schema) -> list[str]:
    return list(response["content"]["application/json"]["examples"])


def _members_by_code(body: Schema) -> dict[str, dict[str, str]]:
    """Return the description of each member that only one code has, by code and by name of the member."""
    members: dict[str, dict[str, str]] = {}
    for name, schema in body["properties"].items():
        found = _OF_ONE_CODE.fullmatch(schema.get("description", ""))
        if found is None or name in _ON_THE_BASE_CLASS:
            continue
        if schema["type"] != "string" or not name.islower():
            raise UnsupportedErrors(f"{name}: only a string member with a one-word name can become a property")
        members.setdefault(found["code"], {})[name] = found["text"]
    return members


def _class(code: str, status: int, summary: str, members: dict[str, str]) -> str:
    properties = [
        f"    @property\n"
        f"    def {name}(self) -> str:\n"
        f"        {_docstring(text[0].upper() + text[1:])}\n"
        f'        return self._text_member("{name}")'
        for name, text in members.items()
    ]
    head = f"class {class_name(code)}(ApiError):\n    {_docstring(summary)}\n\n    expected_status = {status}"
    return "\n\n".join([head, *properties])


def _docstring(text: str) -> str:
    return f'"""{text.replace(chr(92), chr(92) * 2)}"""'
