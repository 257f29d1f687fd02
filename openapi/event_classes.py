"""The client's event classes, generated from events.schema.json.

The generated module has a frozen dataclass per event, their union, which type checkers can narrow, and a function that
parses an event strictly. Only the part of JSON Schema that the events use is supported; anything else raises
`UnsupportedSchema` when the module is generated.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

Schema = dict[str, Any]

_HEAD = '''\
"""The events of a session as classes, and a function that parses one. Written by `nox -s contract`; do not edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"


class InvalidEvent(ValueError):
    """An event that does not match the schema. `path` is the place of the error, such as `data.lastMessage.role`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class MissingField(InvalidEvent):
    """A required field is missing."""


class WrongType(InvalidEvent):
    """A value has the wrong JSON type, or a string has the wrong format."""


class UnknownValue(InvalidEvent):
    """A value is not in the enumeration of the schema."""
'''

_UNKNOWN_EVENT = '''
@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a type that this version of the client does not know; a newer server may send one."""

    event: str
    id: str
    seq: int
    request_id: str
    data: dict[str, JsonValue]
'''

_PARSE_FUNCTION = '''
def parse_event(event: str, data: Mapping[str, Any], id: str | None = None) -> Event:
    """Parse an event from its name, its `data` as parsed JSON, and its id. Unknown members are ignored.

    Without an id, the `id` of the event is empty and its `seq` is 0.

    Raises:
        InvalidEvent: `MissingField`, `WrongType` or `UnknownValue`.
    """
    seq = 0 if id is None else _seq(id)
    parser = _PARSERS.get(event)
    if parser is None:
        request_id = data.get("requestId")
        return UnknownEvent(event, id or "", seq, request_id if isinstance(request_id, str) else "", dict(data))
    return parser(data, id or "", seq, _text(_member(data, "requestId", "data"), "data.requestId"))


def _seq(id: str) -> int:
    epoch, dot, digits = id.rpartition(".")
    if not (epoch and dot and digits.isdecimal() and digits.isascii()):
        raise WrongType("id", f"{id[:80]!r} is not <epoch>.<seq>")
    return int(digits)


def _member(members: Mapping[str, Any], name: str, path: str) -> Any:
    try:
        return members[name]
    except KeyError:
        raise MissingField(f"{path}.{name}", "is missing") from None


def _text(value: Any, path: str) -> str:
    if type(value) is str:
        return value
    raise _wrong_type(value, path, "a string")


def _integer(value: Any, path: str) -> int:
    if type(value) is int:
        return value
    raise _wrong_type(value, path, "an integer")


def _number(value: Any, path: str) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _wrong_type(value, path, "a number")


def _object(value: Any, path: str) -> dict[str, JsonValue]:
    if type(value) is dict:
        return cast("dict[str, JsonValue]", value)
    raise _wrong_type(value, path, "an object")


def _array(value: Any, path: str) -> list[JsonValue]:
    if type(value) is list:
        return cast("list[JsonValue]", value)
    raise _wrong_type(value, path, "an array")


def _one_of(values: tuple[str, ...], value: Any, path: str) -> Any:
    if type(value) is not str:
        raise _wrong_type(value, path, "a string")
    if value not in values:
        raise UnknownValue(path, f"{value[:80]!r} is not one of {', '.join(values)}")
    return value


def _wrong_type(value: object, path: str, wanted: str) -> WrongType:
    return WrongType(path, f"must be {wanted}, not {_JSON_TYPES.get(type(value), type(value).__name__)}")


_JSON_TYPES: Final[dict[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
    type(None): "null",
}
'''

_SCALARS = {"string": ("str", "_text"), "integer": ("int", "_integer"), "number": ("float", "_number")}


class UnsupportedSchema(ValueError):
    """The schema uses a part of JSON Schema that this module does not support."""


class _Module:
    """The parts of the module. A nested object becomes a class of its own, named by its title."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.parsers: list[str] = []

    def event(self, schema: Schema) -> None:
        """Add the class of an event and the function that parses it."""
        title, properties = schema["title"], schema["properties"]
        event, members = properties["event"]["const"], self._members(properties["data"])
        del members["requestId"]  # every event has it, beside its id and its seq
        discriminator = f'    event: ClassVar[Literal["{event}"]] = "{event}"'
        self._add_class(schema, [discriminator, "    id: str", "    seq: int", "    request_id: str"], members)
        parameters = "data: Mapping[str, Any], id: str, seq: int, request_id: str"
        values = [self._parse(name, member, "data", '"data"') for name, member in members.items()]
        arguments = ", ".join(["id", "seq", "request_id", *values])
        self.parsers.append(f"def _parse_{_snake(title)}({parameters}) -> {title}:\n    return {title}({arguments})")

    def nested(self, schema: Schema) -> None:
        """Add the class of a nested object and the function that parses it."""
        title, members = schema["title"], self._members(schema)
        self._add_class(schema, [], members)
        arguments = ", ".join(self._parse(name, member, "members", "path") for name, member in members.items())
        self.parsers.append(
            f"def _{_snake(title)}(value: Any, path: str) -> {title}:\n"
            f"    members = _object(value, path)\n"
            f"    return {title}({arguments})"
        )

    def _add_class(self, schema: Schema, first: list[str], members: dict[str, Schema]) -> None:
        fields = [
            self._field(name, member) for name, member in members.items()
        ]  # may add the classes of nested objects
        head = ["@dataclass(frozen=True, slots=True)", f"class {schema['title']}:"]
        self.classes.append("\n".join([*head, f"    {_docstring(schema['description'])}", "", *first, *fields]))

    def _members(self, schema: Schema) -> dict[str, Schema]:
        members: dict[str, Schema] = {**schema["properties"]}
        if set(members) != set(schema["required"]):
            raise UnsupportedSchema(f"{schema['title']}: optional fields are not supported")
        return members

    def _field(self, name: str, schema: Schema) -> str:
        attribute = _snake(name)
        if keyword.iskeyword(attribute) or attribute in ("id", "seq", "event", "request_id"):
            raise UnsupportedSchema(f"{name}: not usable as an attribute name")
        described = "description" in schema and "title" not in schema  # with a title, the class has the description
        docstring = f"\n    {_docstring(schema['description'])}" if described else ""
        return f"    {attribute}: {self._type(schema)}{docstring}"

    def _type(self, schema: Schema) -> str:
        match schema:
            case {"const": str(value)}:
                return f'Literal["{value}"]'
            case {"enum": _}:
                return f"Literal[{_listed(schema)}]"
            case {"type": "string" | "integer" | "number" as json_type}:
                return _SCALARS[json_type][0]
            case {"type": "array", "items": items}:
                return f"list[{self._type(items)}]"
            case {"type": "object", "title": title, "properties": _}:
                if not any(f"class {title}:" in source for source in self.classes):
                    self.nested(schema)
                return title
            case {"type": "object", "additionalProperties": True}:
                return "dict[str, JsonValue]"
            case {"anyOf": [one, {"type": "null"}]}:
                return f"{self._type(one)} | None"
            case _:
                raise UnsupportedSchema(f"{schema}")

    def _parse(self, name: str, schema: Schema, members: str, path: str) -> str:
        """Return an expression that parses a member. `path` is an expression too, a literal if the path is constant."""
        whole = f'"{path[1:-1]}.{name}"' if path.startswith('"') else f'f"{{{path}}}.{name}"'
        member = f'_member({members}, "{name}", {path})'
        if "anyOf" in schema:
            [one, _] = schema["anyOf"]
            return f"None if (value := {member}) is None else {self._value(one, 'value', whole)}"
        return self._value(schema, member, whole)

    def _value(self, schema: Schema, value: str, path: str) -> str:
        match schema:
            case {"const": str(only)}:
                return f"_one_of(({only!r},), {value}, {path})"
            case {"enum": _}:
                return f"_one_of(({_listed(schema)},), {value}, {path})"
            case {"type": "string" | "integer" | "number" as json_type}:
                return f"{_SCALARS[json_type][1]}({value}, {path})"
            case {"type": "array", "items": items}:
                place = f'f"{path.removeprefix("f")[1:-1]}[{{at}}]"'
                return f"[{self._value(items, 'item', place)} for at, item in enumerate(_array({value}, {path}))]"
            case {"type": "object", "title": title}:
                return f"_{_snake(title)}({value}, {path})"
            case _:
                return f"_object({value}, {path})"


def event_classes(schema: Schema) -> str:
    """Return the source of the module, not yet formatted. Raises UnsupportedSchema."""
    module = _Module()
    events = [schema["$defs"][reference["$ref"].rpartition("/")[2]] for reference in schema["oneOf"]]
    for event in events:
        module.event(event)
    names = [event["title"] for event in events]
    parsers = [f'    "{event["properties"]["event"]["const"]}": _parse_{_snake(event["title"])},' for event in events]
    parts = [
        _HEAD,
        *module.classes,
        _UNKNOWN_EVENT,
        f"Event: TypeAlias = {' | '.join([*names, 'UnknownEvent'])}",
        _PARSE_FUNCTION,
        *module.parsers,
        "_PARSERS: Final[dict[str, Callable[[Mapping[str, Any], str, int, str], Event]]] = {",
    ]
    return "\n\n\n".join(parts) + "\n" + "\n".join(parsers) + "\n}\n"


def _listed(schema: Schema) -> str:
    values: list[str] = schema["enum"]
    return ", ".join(map(repr, values))


def _docstring(text: str) -> str:
    return f'"""{text.replace(chr(92), chr(92) * 2)}"""'


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
