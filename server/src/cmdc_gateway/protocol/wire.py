"""How bodies are described: camelCase, nothing unknown, nothing coerced (HTTP-1, HTTP-3)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cmdc_gateway.protocol.encoding import dumps

T = TypeVar("T")


class _NotNull:
    """Takes `None` out of what may be sent, so that it only ever means: left out."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


LeftOut = Annotated[T | None, _NotNull()]
"""A field that may be left out. It is None then; `null` on the wire is a value of the wrong type (HTTP-3)."""


Names = Annotated[list[str], Field(fail_fast=True)]
"""A list of strings. Of those that are none the first is told: naming half a million of them takes seconds."""

_UNKNOWN_TOLD = 50


class _NullNotShown:
    """Takes `null` out of the published schema of a field that is left out when it is None."""

    def __get_pydantic_json_schema__(self, source: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(source)
        return next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), schema)


MayBeAbsent = Annotated[T | None, _NullNotShown()]
"""A field of an answer that is left out when it is None."""


def _without_null_defaults(schema: dict[str, Any]) -> None:
    for described in schema.get("properties", {}).values():
        if described.get("default", ...) is None:
            del described["default"]


class RequestBody(BaseModel):
    """A body that a client sends. Unknown fields and wrong types are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        strict=True,
        frozen=True,
        validate_by_name=False,
        json_schema_extra=_without_null_defaults,
    )

    @model_validator(mode="before")
    @classmethod
    def _look_at_few_unknown_fields(cls, data: object) -> object:
        """Some unknown fields are enough to refuse a body; to name a hundred thousand would hold everybody up."""
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields) + _UNKNOWN_TOLD:  # pyright: ignore[reportUnknownArgumentType]
            return cast("object", data)
        given = cast("dict[str, object]", data)
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: given[name] for name in (*(known & given.keys()), *_first_others(given, known))}


def _first_others(given: Collection[str], known: Collection[str]) -> list[str]:
    return list(islice((name for name in given if name not in known), _UNKNOWN_TOLD))


class AnswerBody(BaseModel):
    """A body that the server sends. A field that is None is left out, unless its class says that it is sent as null."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        json_schema_extra=_without_null_defaults,
    )
    sent_as_null: ClassVar[frozenset[str]] = frozenset()

    def wire(self) -> dict[str, Any]:
        """The JSON object that is sent."""
        data = self.model_dump(mode="json", by_alias=True)
        return _pruned(self, data)

    def encode(self) -> bytes:
        return dumps(self.wire())


def _pruned(model: BaseModel, data: dict[str, Any]) -> dict[str, Any]:
    kept: frozenset[str] = getattr(model, "sent_as_null", frozenset())
    pruned: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        alias = field.alias or name
        value = data[alias]
        if value is None and name not in kept:
            continue
        pruned[alias] = _pruned_value(getattr(model, name), value)
    return pruned


def _pruned_value(held: Any, value: Any) -> Any:
    if isinstance(held, BaseModel):
        return _pruned(held, value)
    if isinstance(held, list | tuple):
        return [_pruned_value(*pair) for pair in zip(held, value, strict=True)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value
