"""Requests made from what a server publishes: every operation of its OpenAPI document, and every action of its AsyncAPI one.

Nothing here names a route: one that is added is asked for by itself.
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
    """A place in a request where text can stand."""

    location: Location
    name: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request, ready to be sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its slots and a body that it takes. `guarded`: it needs a credential."""

    name: str
    method: str
    path: str
    requires_key: bool
    inputs: tuple[Input, ...]
    body: dict[str, Any] | None

    def request(self, values: Mapping[Input, str]) -> Request:
        """The request with these values; the slots of a path that are not among them get `nobody`."""
        body = None if self.body is None else dict(self.body)
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        for slot, value in values.items():
            match slot.location:
                case "query":
                    query[slot.name] = value
                case "header":
                    headers[slot.name] = value
                case "body" if body is not None:
                    body[slot.name] = value
                case _:
                    pass
        path = re.sub(
            r"\{(\w+)\}", lambda name: quote(values.get(Input("path", name[1]), "nobody"), safe=""), self.path
        )
        return Request(self.method, path, query, headers, body)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Every operation of an OpenAPI document.

    Raises:
        ValueError: one takes a body and shows none by example.
    """
    return [
        _operation(document, method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


def actions(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An example of every message that an AsyncAPI document says the server receives."""
    return [
        dict(message["examples"][0]["payload"])
        for operation in document["operations"].values()
        if operation["action"] == "receive"
        for reference in operation["messages"]
        for message in [_resolved(document, _resolved(document, reference))]
    ]


def _operation(document: Mapping[str, Any], method: str, path: str, described: Mapping[str, Any]) -> Operation:
    slots = [Input(parameter["in"], parameter["name"]) for parameter in described.get("parameters", ())]
    body: dict[str, Any] | None = None
    content = described.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        if not content.get("examples"):
            raise ValueError(f"{method} {path} shows no body by example")
        examples = [_resolved(document, example)["value"] for example in content["examples"].values()]
        body = max(examples, key=len)
        fields = _resolved(document, content["schema"])["properties"]
        slots += [Input("body", name) for name, field in fields.items() if _is_text(document, field)]
    guarded = described.get("security") != []
    return Operation(described["operationId"], method, path, guarded, tuple(slots), body)


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
