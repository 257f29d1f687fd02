import time
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.tools.schema import MAX_SCHEMA_BYTES, InvalidSchema, Parameters

OBJECT: dict[str, Any] = {"type": "object"}


def nested(levels: int, innermost: Any) -> dict[str, Any]:
    schema: dict[str, Any] = innermost
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def test_valid_arguments_have_no_error() -> None:
    parameters = Parameters({**OBJECT, "properties": {"city": {"type": "string"}}, "required": ["city"]})

    assert parameters.error({"city": "Oslo"}) is None


def test_an_error_names_the_path_and_does_not_repeat_the_value() -> None:
    parameters = Parameters(
        {**OBJECT, "properties": {"places": {"items": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}
    )

    error = parameters.error({"places": [{"n": 1}, {"n": "x" * 100_000}]})

    assert error == 'args.places[1].n: the value is not of type "integer"'


def test_only_the_first_violations_are_listed() -> None:
    parameters = Parameters({**OBJECT, "additionalProperties": {"type": "integer"}})

    error = parameters.error({"k" * 5000 + str(n): "no" for n in range(500)})

    assert error is not None
    assert len(error) < 1200
    assert error.endswith("; and more")


def test_a_reference_within_the_schema_is_resolved() -> None:
    schema: dict[str, Any] = {
        **OBJECT,
        "$defs": {"n/m~": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/$defs/n~1m~0"}},
    }

    assert Parameters(schema).error({"a": 1}) is None
    assert Parameters(schema).error({"a": "1"}) is not None


def test_a_schema_is_interpreted_by_its_draft() -> None:
    schema: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **OBJECT,
        "properties": {"pair": {"items": [{"type": "integer"}, {"type": "string"}], "additionalItems": False}},
    }

    assert Parameters(schema).error({"pair": [1, "a"]}) is None
    assert Parameters(schema).error({"pair": [1, "a", 2]}) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array"},
        {"type": ["object", "null"]},
        {**OBJECT, "properties": {"a": {"type": "banana"}}},
        {**OBJECT, "properties": []},
        {**OBJECT, "required": "a"},
        {**OBJECT, "$schema": "http://example.com/my-own-draft"},
        {**OBJECT, "$ref": "http://example.com/schema.json"},
        {**OBJECT, "$ref": "file:///etc/passwd"},
        {**OBJECT, "$ref": "other.json"},
        {**OBJECT, "$ref": "#/$defs/missing"},
        {**OBJECT, "$ref": "#missing"},
        {**OBJECT, "$ref": 7},
        {**OBJECT, "$dynamicRef": "http://example.com/schema.json#x"},
        {**OBJECT, "allOf": [{"$id": "http://example.com/", "$ref": "x"}]},
        {**OBJECT, "properties": {"a": {"pattern": "(?=a)b"}}},
        {**OBJECT, "properties": {"a": {"pattern": r"(a)\1"}}},
        {**OBJECT, "properties": {"a": {"pattern": "(a{1,1000}){1,1000}"}}},
        {**OBJECT, "patternProperties": {"(?<!a)b": {}}},
        {**OBJECT, "properties": {str(n): {"pattern": "a"} for n in range(201)}},
        {**OBJECT, "description": "x" * MAX_SCHEMA_BYTES},
        nested(5000, {}),
        nested(200, {}),
    ],
)
def test_an_unusable_schema_is_rejected(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema) as raised:
        Parameters(schema)

    assert len(str(raised.value)) < 500


def test_a_hidden_reference_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    hidden: dict[str, Any] = {"$ref": f"file://{tmp_path}/schema.json"}

    with pytest.raises(InvalidSchema):
        Parameters({**OBJECT, "$ref": "#/x-hidden", "x-hidden": hidden})


def test_data_in_a_schema_is_not_a_reference() -> None:
    Parameters({**OBJECT, "properties": {"$ref": {"const": {"$ref": "http://x"}}}, "default": {"$ref": "http://x"}})


def test_patterns_take_linear_time() -> None:
    parameters = Parameters({**OBJECT, "properties": {"a": {"pattern": "^(a+)+$"}}})

    assert parameters.error({"a": "a" * 50_000 + "b"}) is not None


def fan_out(keyword: str, levels: int) -> dict[str, Any]:
    """A short schema that costs a validator 2^levels steps."""
    definitions: dict[str, Any] = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    definitions[f"d{levels}"] = {"type": "integer"}
    return {**OBJECT, "$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_schema_that_fans_out_does_not_hang(keyword: str) -> None:
    started = time.process_time()

    error = Parameters(fan_out(keyword, 60)).error({"a": 1})

    assert error == "the arguments are too large to be validated against the schema of this tool"
    assert time.process_time() - started < 2


def test_a_recursive_schema_with_branches_does_not_hang() -> None:
    branch = {"properties": {"a": {"$ref": "#/$defs/n"}}, "minProperties": 1}
    schema: dict[str, Any] = {
        **OBJECT,
        "$defs": {"n": {"anyOf": [branch, {**branch, "maxProperties": 9}]}},
        "$ref": "#/$defs/n",
    }
    value: dict[str, Any] = {}
    for _ in range(60):
        value = {"a": value}
    started = time.process_time()

    assert Parameters(schema).error(value) is not None
    assert Parameters(schema).error({"a": {"a": {}}}) is not None
    assert time.process_time() - started < 2


def test_unevaluated_with_many_references_is_rejected_before_compilation() -> None:
    with pytest.raises(InvalidSchema):
        Parameters({**fan_out("allOf", 30), "unevaluatedProperties": False})


def test_a_reference_to_itself_does_not_hang() -> None:
    assert Parameters({**OBJECT, "$ref": "#"}).error({"a": 1}) is None


def test_a_recursive_schema_is_supported() -> None:
    tree: dict[str, Any] = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}},
    }

    assert Parameters(tree).error({"left": {"n": 1}, "right": {"left": {"n": 2}}}) is None
    assert Parameters(tree).error({"left": {"n": 1}, "right": {"left": {"n": "2"}}}) is not None


def test_a_lone_surrogate_in_arguments_is_an_error() -> None:
    parameters = Parameters({**OBJECT, "additionalProperties": {"type": "integer"}})

    error = parameters.error({"\ud800": "\udfff"})

    assert error is not None
    error.encode()
