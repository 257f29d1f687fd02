"""The client's event classes, written from events.schema.json.

What comes out is plain Python that type checkers narrow: a frozen dataclass for each event, their union, and a function
that reads one strictly. Only the part of JSON Schema that the events use is understood; anything else is refused here,
rather than read wrongly there.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

Schema = dict[str, Any]

_HEAD = '''\
"""The events of a session as classes, and a function that reads one. Written by `nox -s contract`; never edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"


class EventFlaw(ValueError):
    """An event that is not as the schema says. `path` is where: `data.lastMessage.role`."""

    def __init__(self, path: str, flaw: str) -> None:
        super().__init__(f"{path}: {flaw}")
        self.path = path
        self.flaw = flaw


class MissingField(EventFlaw):
    """A field that every event of this type has is not there."""


class WrongType(EventFlaw):
    """A value of another JSON type than the schema gives, or text that is not of its form."""


class UnknownValue(EventFlaw):
    """A value that is none of those the schema lists."""
'''

_UNKNOWN_EVENT = '''
@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a type that this client does not know: a newer server may send one."""

    event: str
    id: str
    seq: int
    request_id: str
    data: dict[str, JsonValue]
'''

_READER = '''
def parse_event(event: str, data: Mapping[str, Any], id: str | None = None) -> Event:
    """The event of this name, from its `data` as parsed JSON and its id. Members that are not known are passed over.

    Where the server sent no id, it is empty, and `seq` is 0.

    Raises:
        EventFlaw: `MissingField`, `WrongType` or `UnknownValue`.
    """
    seq = 0 if id is None else _seq(id)
    reader = _READERS.get(event)
    if reader is None:
        request_id = data.get("requestId")
        return UnknownEvent(event, id or "", seq, request_id if isinstance(request_id, str) else "", dict(data))
    return reader(data, id or "", seq, _text(_member(data, "requestId", "data"), "data.requestId"))


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
        raise UnknownValue(path, f"{value[:80]!r} is none of {', '.join(values)}")
    return value


def _wrong_type(value: object, path: str, wanted: str) -> WrongType:
    return WrongType(path, f"must be {wanted}, not {_KINDS.get(type(value), type(value).__name__)}")


_KINDS: Final[dict[type, str]] = {
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


class UnknownShape(ValueError):
    """The schema says something that the classes cannot say yet: teach this module."""


class _Module:
    """The module while it is written. A nested object becomes a class of its own, named by its title."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.readers: list[str] = []

    def event(self, schema: Schema) -> None:
        """Write an event's class and its reader."""
        name, event, data = schema["title"], schema["properties"]["event"]["const"], schema["properties"]["data"]
        members = {wire: shape for wire, shape in self._members(data).items() if wire != "requestId"}
        fields = [self._field(wire, shape) for wire, shape in members.items()]
        reads = [self._read(wire, shape, "data", '"data"') for wire, shape in members.items()]
        self.classes.append(
            "\n".join(
                [
                    "@dataclass(frozen=True, slots=True)",
                    f"class {name}:",
                    f"    {_docstring(schema['description'])}",
                    "",
                    f'    event: ClassVar[Literal["{event}"]] = "{event}"',
                    "    id: str",
                    "    seq: int",
                    "    request_id: str",
                    *fields,
                ]
            )
        )
        given = "data: Mapping[str, Any], id: str, seq: int, request_id: str"
        values = ", ".join(["id", "seq", "request_id", *reads])
        self.readers.append(f"def _read_{_snake(name)}({given}) -> {name}:\n    return {name}({values})")

    def nested(self, schema: Schema) -> str:
        """Write the class of an object inside an event, and its reader; return the class name."""
        name, members = schema["title"], self._members(schema)
        fields = [self._field(wire, shape) for wire, shape in members.items()]
        self.classes.append(
            "\n".join(
                [
                    "@dataclass(frozen=True, slots=True)",
                    f"class {name}:",
                    f"    {_docstring(schema['description'])}",
                    "",
                    *fields,
                ]
            )
        )
        reads = ", ".join(self._read(wire, shape, "members", "path") for wire, shape in members.items())
        self.readers.append(
            f"def _{_snake(name)}(value: Any, path: str) -> {name}:\n"
            f"    members = _object(value, path)\n"
            f"    return {name}({reads})"
        )
        return name

    def _members(self, schema: Schema) -> dict[str, Schema]:
        members: dict[str, Schema] = schema["properties"]
        if set(members) != set(schema["required"]):
            raise UnknownShape(f"{schema['title']}: a field that may be left out")
        return members

    def _field(self, wire: str, shape: Schema) -> str:
        attribute = _snake(wire)
        if keyword.iskeyword(attribute) or attribute in ("id", "seq", "event", "request_id"):
            raise UnknownShape(f"{wire}: not a name for an attribute")
        told = f"\n    {_docstring(shape['description'])}" if "description" in shape and "title" not in shape else ""
        return f"    {attribute}: {self._type(shape)}{told}"

    def _type(self, shape: Schema) -> str:
        match shape:
            case {"const": str(value)}:
                return f'Literal["{value}"]'
            case {"enum": _}:
                return f"Literal[{_listed(shape)}]"
            case {"type": "string" | "integer" | "number" as kind}:
                return _SCALARS[kind][0]
            case {"type": "array", "items": items}:
                return f"list[{self._type(items)}]"
            case {"type": "object", "title": title, "properties": _}:
                if not any(f"class {title}:" in written for written in self.classes):
                    self.nested(shape)
                return title
            case {"type": "object", "additionalProperties": True}:
                return "dict[str, JsonValue]"
            case {"anyOf": [one, {"type": "null"}]}:
                return f"{self._type(one)} | None"
            case _:
                raise UnknownShape(f"{shape}")

    def _read(self, wire: str, shape: Schema, members: str, path: str) -> str:
        """An expression that reads a member. `path` is an expression too, a literal where that is known."""
        whole = f'"{path[1:-1]}.{wire}"' if path.startswith('"') else f'f"{{{path}}}.{wire}"'
        member = f'_member({members}, "{wire}", {path})'
        if "anyOf" in shape:
            [one, _] = shape["anyOf"]
            return f"None if (value := {member}) is None else {self._value(one, 'value', whole)}"
        return self._value(shape, member, whole)

    def _value(self, shape: Schema, value: str, path: str) -> str:
        match shape:
            case {"const": str(only)}:
                return f"_one_of(({only!r},), {value}, {path})"
            case {"enum": _}:
                return f"_one_of(({_listed(shape)},), {value}, {path})"
            case {"type": "string" | "integer" | "number" as kind}:
                return f"{_SCALARS[kind][1]}({value}, {path})"
            case {"type": "array", "items": items}:
                place = f'f"{path.removeprefix("f")[1:-1]}[{{at}}]"'
                return f"[{self._value(items, 'item', place)} for at, item in enumerate(_array({value}, {path}))]"
            case {"type": "object", "title": title}:
                return f"_{_snake(title)}({value}, {path})"
            case _:
                return f"_object({value}, {path})"


def event_classes(schema: Schema) -> str:
    """The text of the module, not yet formatted. Raises UnknownShape."""
    module = _Module()
    events = [schema["$defs"][reference["$ref"].rpartition("/")[2]] for reference in schema["oneOf"]]
    for event in events:
        module.event(event)
    names = [event["title"] for event in events]
    readers = [f'    "{event["properties"]["event"]["const"]}": _read_{_snake(event["title"])},' for event in events]
    parts = [
        _HEAD,
        *module.classes,
        _UNKNOWN_EVENT,
        f"Event: TypeAlias = {' | '.join([*names, 'UnknownEvent'])}",
        _READER,
        *module.readers,
        "_READERS: Final[dict[str, Callable[[Mapping[str, Any], str, int, str], Event]]] = {",
    ]
    return "\n\n\n".join(parts) + "\n" + "\n".join(readers) + "\n}\n"


def _listed(shape: Schema) -> str:
    values: list[str] = shape["enum"]
    return ", ".join(map(repr, values))


def _docstring(text: str) -> str:
    return f'"""{text.replace(chr(92), chr(92) * 2)}"""'


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
