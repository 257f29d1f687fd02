"""The published documents are valid, and their examples satisfy their schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
from cmdc_gateway.protocol.events import EVENT_TYPES
from cmdc_gateway.protocol.schema import events_schema
from cmdc_gateway.web.errors import STATUS
from cmdc_gateway.web.schema.asyncapi import asyncapi
from cmdc_testkit.gateways import in_process_gateway
from openapi_spec_validator import OpenAPIV31SpecValidator

ROOT = Path(__file__).resolve().parents[3]
Schema = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Schema:
    """The OpenAPI document as it is committed."""
    return json.loads((ROOT / "openapi" / "openapi.json").read_bytes())


def every(node: Any) -> Iterator[Schema]:
    """Every object in this value."""
    if isinstance(node, dict):
        members = cast("Schema", node)
        yield members
        for value in members.values():
            yield from every(value)
    elif isinstance(node, list):
        for value in cast("list[Any]", node):
            yield from every(value)


def resolved(document: Schema, reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def dangling(document: Schema) -> list[str]:
    references = {node["$ref"] for node in every(document) if "$ref" in node}
    missing: list[str] = []
    for reference in sorted(references):
        try:
            resolved(document, reference)
        except KeyError:
            missing.append(reference)
    return missing


def operations(document: Schema) -> list[Schema]:
    """Every operation, callbacks too."""
    listed = [operation for methods in document["paths"].values() for operation in methods.values()]
    called = every([operation.get("callbacks", {}) for operation in listed])
    return [*listed, *(node for node in called if "operationId" in node)]


async def test_what_is_served_is_what_is_committed(tmp_path: Path) -> None:
    async with in_process_gateway(tmp_path) as served, served.client(key=None) as client:
        for name in ("openapi.json", "asyncapi.json", "events.schema.json"):
            answer = await client.get(f"/{name}")

            assert answer.json() == json.loads((ROOT / "openapi" / name).read_bytes()), name


def test_the_openapi_document_is_valid(document: Schema) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert dangling(document) == []


def test_every_request_answer_and_error_has_an_example_that_holds_to_its_schema(document: Schema) -> None:
    judged: set[str] = set()
    for operation in operations(document):
        answers = [answer for answer in operation["responses"].values() if "content" in answer]
        for described in (*answers, *filter(None, [operation.get("requestBody")])):
            for kind, content in described["content"].items():
                if content["schema"] in ({"type": "string"}, {"type": "object"}):
                    continue
                assert kind == "application/json", operation["operationId"]
                judge = jsonschema_rs.Draft202012Validator({**content["schema"], "components": document["components"]})
                assert content["examples"], operation["operationId"]
                for example in content["examples"].values():
                    judge.validate(resolved(document, example["$ref"])["value"])
                    judged.add(example["$ref"].rpartition("/")[2])

    assert judged == document["components"]["examples"].keys() - {"method_not_allowed"}
    assert STATUS.keys() <= document["components"]["examples"].keys()


def test_every_operation_says_what_it_is_and_has_a_name_of_its_own(document: Schema) -> None:
    listed = operations(document)
    tags = {tag["name"] for tag in document["tags"]}

    assert len({operation["operationId"] for operation in listed}) == len(listed)
    assert all(operation["summary"] and set(operation["tags"]) <= tags for operation in listed)


def test_the_stream_refers_to_the_union_of_the_events(document: Schema) -> None:
    stream = document["paths"]["/v1/sessions/{sessionId}/events"]["get"]["responses"]["200"]["content"]
    union = resolved(document, stream["text/event-stream"]["x-item-schema"]["$ref"])

    assert len(union["oneOf"]) == len(union["discriminator"]["mapping"]) == len(EVENT_TYPES)


def test_the_asyncapi_document_pairs_each_action_with_its_acknowledgement() -> None:
    """That nothing dangles and the examples hold; the rest of what AsyncAPI asks for is tried by `nox -s generators`."""
    document = asyncapi("0.1.0")
    schemas = {"components": document["components"]}

    assert dangling(document) == []
    for message in document["components"]["messages"].values():
        judge = jsonschema_rs.Draft202012Validator({**message["payload"], **schemas})
        for example in message["examples"]:
            judge.validate(example["payload"])
    replies = {
        name: [reply["$ref"].rpartition("/")[2] for reply in operation["reply"]["messages"]]
        for name, operation in document["operations"].items()
        if operation["action"] == "receive"
    }
    assert replies == {
        "prompt": ["PromptAccepted", "ActionRefused"],
        "approve": ["DecisionTaken", "ActionRefused"],
        "reject": ["DecisionTaken", "ActionRefused"],
        "respond": ["ResponseTaken", "ActionRefused"],
        "abort": ["AbortTaken", "ActionRefused"],
    }


def test_each_event_is_one_of_fifteen_by_its_name_and_has_an_example() -> None:
    """EVT-5."""
    schema = events_schema("0.1.0")
    judge = jsonschema_rs.Draft202012Validator(schema)
    alone = {name: jsonschema_rs.Draft202012Validator(kind) for name, kind in schema["$defs"].items()}

    assert jsonschema_rs.meta.is_valid(schema)
    assert len(schema["oneOf"]) == 15
    assert dangling(schema) == []
    for name, kind in schema["$defs"].items():
        assert {"event", "data"} <= set(kind["required"])
        for example in kind["examples"]:
            judge.validate(example)
            assert [other for other, one in alone.items() if one.is_valid(example)] == [name]
            assert not judge.is_valid({**example, "more": 1})
            assert not judge.is_valid({**example, "data": {**example["data"], "more": 1}})
