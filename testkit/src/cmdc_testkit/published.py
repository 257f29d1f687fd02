"""Requests derived from a server's OpenAPI and AsyncAPI documents: every operation and every WebSocket action.

No route is named here, so new ones are included automatically.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

Place = Literal["path", "query", "header", "body"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a request that holds text."""

    place: Place
    name: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to send."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its slots and an example body. `guarded`: it requires a credential."""

    name: str
    method: str
    path: str
    guarded: bool
    slots: tuple[Slot, ...]
    body: dict[str, Any] | None

    def request(self, values: Mapping[Slot, str]) -> Request:
        """Build a request with these values; missing path parameters become `nobody`."""
        body = None if self.body is None else dict(self.body)
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        for slot, value in values.items():
            match slot.place:
                case "query":
                    query[slot.name] = value
                case "header":
                    headers[slot.name] = value
                case "body" if body is not None:
                    body[slot.name] = value
                case _:
                    pass
        path = re.sub(r"\{(\w+)\}", lambda name: quote(values.get(Slot("path", name[1]), "nobody"), safe=""), self.path)
        return Request(self.method, path, query, headers, body)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Every operation of an OpenAPI document.

    Raises:
        ValueError: an operation has a body without an example.
    """
    return [
        _operation(document, method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


def actions(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An example of every message that the server receives according to an AsyncAPI document."""
    return [
        dict(message["examples"][0]["payload"])
        for operation in document["operations"].values()
        if operation["action"] == "receive"
        for reference in operation["messages"]
        for message in [_resolved(document, _resolved(document, reference))]
    ]


def _operation(document: Mapping[str, Any], method: str, path: str, described: Mapping[str, Any]) -> Operation:
    slots = [Slot(parameter["in"], parameter["name"]) for parameter in described.get("parameters", ())]
    body: dict[str, Any] | None = None
    content = described.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        if not content.get("examples"):
            raise ValueError(f"{method} {path} has a body without an example")
        examples = [_resolved(document, example)["value"] for example in content["examples"].values()]
        body = max(examples, key=len)
        fields = _resolved(document, content["schema"])["properties"]
        slots += [Slot("body", name) for name, field in fields.items() if _is_text(document, field)]
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
