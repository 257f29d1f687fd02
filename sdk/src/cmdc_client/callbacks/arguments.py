"""The arguments of a tool: their JSON Schema, and their conversion into the declared types. Both are done by pydantic.

The parameters of the function become the fields of a TypedDict. JSON is validated in strict mode, so that a string is not
converted to a number, or a number to a bool; what is accepted is what the schema promises.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NotRequired, cast, get_args, get_origin

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, PydanticSerializationError, SchemaError
from typing_extensions import TypedDict

Schema = dict[str, Any]

_MAX_ERRORS: Final = 5
_MAX_SHOWN: Final = 80
_UNSUPPORTED: Final = (
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUserError,
    SchemaError,
    NameError,
    TypeError,
)


class InvalidTool(TypeError):
    """A function cannot be used as a tool. The message, for its author, says why."""


class ArgumentError(ValueError):
    """The arguments of a call do not match the schema. The message, for the model, names each invalid argument."""


class Arguments:
    """The arguments of one tool."""

    def __init__(self, tool: str, parameters: Sequence[inspect.Parameter], descriptions: Mapping[str, str]) -> None:
        """Build the schema from parameters whose annotations are resolved.

        `descriptions` are used for parameters that `Annotated` does not describe. Raises InvalidTool.
        """
        fields = {parameter.name: _field(tool, parameter, descriptions.get(parameter.name)) for parameter in parameters}
        try:
            self._adapter = _adapter_for(fields)
            self.schema = _schema_of(self._adapter)
        except _UNSUPPORTED:
            _raise_for_unsupported_parameter(tool, parameters)
            raise

    def parse(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the arguments of a call, including defaults, to the declared types. Raises ArgumentError."""
        try:
            return self._adapter.validate_json(json.dumps(_with_integers(args), allow_nan=False), strict=True)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        except ValueError as error:  # a number that JSON cannot represent
            raise ArgumentError(f"args: {error}") from None
        messages = [_message(details, args) for details in errors[:_MAX_ERRORS]]
        if len(errors) > _MAX_ERRORS:
            messages.append(f"and {len(errors) - _MAX_ERRORS} more errors")
        raise ArgumentError("; ".join(messages))


class _GenerateSchema(GenerateJsonSchema):
    """Omits the titles of fields, and defaults that JSON cannot represent."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - declared by pydantic

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - no field needs one
        return False

    def field_is_present(self, field: Any) -> bool:
        # `dataclasses.field(init=False)` is not an argument.
        return field.get("init", True) and super().field_is_present(field)

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False)
        except ValueError as error:
            raise PydanticSerializationError(str(error)) from None
        return encoded


def _field(tool: str, parameter: inspect.Parameter, description: str | None) -> Any:
    """Return the annotation of a TypedDict field for a parameter."""
    hint, metadata = parameter.annotation, ()
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
    # A later description takes precedence over an earlier one.
    described = [
        Field(description=text) if isinstance(text, str) else text for text in (description, *metadata) if text
    ]
    if parameter.default is parameter.empty:
        return Annotated[hint, *described] if described else hint
    if isinstance(parameter.default, FieldInfo):
        raise InvalidTool(f"{tool}({parameter.name}): write Annotated[…, Field(…)] instead of a Field as the default")
    return NotRequired[Annotated[hint, *described, Field(default=parameter.default)]]


def _adapter_for(fields: Mapping[str, Any]) -> TypeAdapter[dict[str, Any]]:
    arguments = cast("Any", TypedDict)("Arguments", dict(fields))
    # Nested dataclasses and TypedDicts without a configuration of their own inherit this one.
    arguments.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(arguments)


def _schema_of(adapter: TypeAdapter[dict[str, Any]]) -> Schema:
    schema = adapter.json_schema(schema_generator=_GenerateSchema)
    del schema["title"]
    return schema


def _raise_for_unsupported_parameter(tool: str, parameters: Sequence[inspect.Parameter]) -> None:
    """Find the parameter whose type pydantic does not support, and raise InvalidTool for it."""
    for parameter in parameters:
        try:
            TypeAdapter(parameter.annotation).json_schema()
        except _UNSUPPORTED as error:
            reason = str(error).strip().partition("\n")[0]
            raise InvalidTool(f"{tool}({parameter.name}): unsupported type: {reason}") from None


def _with_integers(value: Any) -> Any:
    """Replace integral floats by integers: in JSON, 2.0 is a valid integer, but pydantic's strict mode rejects it."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_integers(member) for name, member in cast("dict[str, Any]", value).items()}
        case list():
            return [_with_integers(item) for item in cast("list[Any]", value)]
        case _:
            return value


def _message(error: ErrorDetails, args: Mapping[str, Any]) -> str:
    """Return the message for one error: its path, its description, and the invalid value."""
    path, value = _locate(error, args)
    shown = "" if error["type"] == "missing" else f", not {_shown(value)}"
    return f"{path}: {error['msg']}{shown}"


def _locate(error: ErrorDetails, args: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the path of an error and the value there.

    The location of an error also names the members of unions and other steps of the validation, which are no part of
    the path: they are the steps that the value does not have.
    """
    path = "args"
    value: Any = args
    for step in error["loc"]:
        in_object = isinstance(value, dict) and step in value
        if in_object or (isinstance(value, list) and isinstance(step, int) and step < len(cast("list[Any]", value))):
            value = cast("Any", value)[step]
        elif error["type"] == "missing" and step == error["loc"][-1]:
            value = None
        else:
            continue
        path += f"[{step}]" if isinstance(step, int) else _member(step)
    return path, cast("Any", value)


def _member(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{_shown(name)}]"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
