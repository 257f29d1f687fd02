"""Builds requests from the published documents: every operation of OpenAPI, and every action of AsyncAPI.

A new route is covered without a change here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

Location = Literal["path", "query", "header", "body"]


@dataclass(frozen=True, slots=True)
class Input:
    """A parameter, header or body field that takes text."""

    location: Location
    name: str


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation, its inputs, and a body that it accepts. `requires_key`: it needs a credential."""

    name: str
    method: str
    path: str
    requires_key: bool
    inputs: tuple[Input, ...]
    body: dict[str, Any] | None

    def request(self, values: Mapping[Input, str]) -> Request:
        """Build the request with these values; other path parameters are `unknown`."""
        body = None if self.body is None else dict(self.body)
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        for one, value in values.items():
            match one.location:
                case "query":
                    query[one.name] = value
                case "header":
                    headers[one.name] = value
                case "body" if body is not None:
                    body[one.name] = value
                case _:
                    pass
        path = re.sub(
            r"\{(\w+)\}", lambda name: quote(values.get(Input("path", name[1]), "unknown"), safe=""), self.path
        )
        return Request(self.method, path, query, headers, body)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """List the operations of an OpenAPI document.

    Raises:
        ValueError: an operation takes a body and has no example of one.
    """
    return [
        _operation(document, method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


def actions(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List an example of each message that the server receives according to an AsyncAPI document."""
    return [
        dict(message["examples"][0]["payload"])
        for operation in document["operations"].values()
        if operation["action"] == "receive"
        for reference in operation["messages"]
        for message in [_resolved(document, _resolved(document, reference))]
    ]


def _operation(document: Mapping[str, Any], method: str, path: str, described: Mapping[str, Any]) -> Operation:
    inputs = [Input(parameter["in"], parameter["name"]) for parameter in described.get("parameters", ())]
    body: dict[str, Any] | None = None
    content = described.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        if not content.get("examples"):
            raise ValueError(f"{method} {path} has no example of a body")
        examples = [_resolved(document, example)["value"] for example in content["examples"].values()]
        body = max(examples, key=len)
        fields = _resolved(document, content["schema"])["properties"]
        inputs += [Input("body", name) for name, field in fields.items() if _is_text(document, field)]
    guarded = described.get("security") != []
    return Operation(described["operationId"], method, path, guarded, tuple(inputs), body)


def _is_text(document: Mapping[str, Any], field: Mapping[str, Any]) -> bool:
    kinds = [_resolved(document, kind) for kind in field.get("anyOf", [field])]
    return any(kind.get("type") == "string" for kind in kinds)


def _resolved(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = document
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found
