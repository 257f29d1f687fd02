"""Base classes of request and response bodies: camelCase, no unknown fields, no coercion (HTTP-1, HTTP-3)."""

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
    """Removes `None` from the accepted values, so that it only means that the field is absent."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


LeftOut = Annotated[T | None, _NotNull()]
"""An optional field of a request. It is None if absent; `null` on the wire is a type error (HTTP-3)."""


Names = Annotated[list[str], Field(fail_fast=True)]
"""A list of strings. Validation stops at the first error: listing half a million of them takes seconds."""

_REPORTED_UNKNOWN_FIELDS = 50


class _NullNotShown:
    """Removes `null` from the published schema of a field that is omitted when it is None."""

    def __get_pydantic_json_schema__(self, source: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(source)
        return next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), schema)


MayBeAbsent = Annotated[T | None, _NullNotShown()]
"""An optional field of a response, omitted when it is None."""


def _without_null_defaults(schema: dict[str, Any]) -> None:
    for member in schema.get("properties", {}).values():
        if member.get("default", ...) is None:
            del member["default"]


class RequestBody(BaseModel):
    """The body of a request. Unknown fields and wrong types are rejected."""

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
    def _limit_unknown_fields(cls, data: object) -> object:
        """Report only some unknown fields: reporting a hundred thousand would block the event loop."""
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields) + _REPORTED_UNKNOWN_FIELDS:  # pyright: ignore[reportUnknownArgumentType]
            return cast("object", data)
        fields = cast("dict[str, object]", data)
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: fields[name] for name in (*(known & fields.keys()), *_first_unknown(fields, known))}


def _first_unknown(names: Collection[str], known: Collection[str]) -> list[str]:
    return list(islice((name for name in names if name not in known), _REPORTED_UNKNOWN_FIELDS))


class AnswerBody(BaseModel):
    """The body of a response. Fields that are None are omitted, except those in `sent_as_null`."""

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
        """The body as a JSON object."""
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


def _pruned_value(source: Any, value: Any) -> Any:
    if isinstance(source, BaseModel):
        return _pruned(source, value)
    if isinstance(source, list | tuple):
        return [_pruned_value(*pair) for pair in zip(source, value, strict=True)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value
