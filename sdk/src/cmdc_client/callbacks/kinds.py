"""The types that arguments may have: each can be told to a model, and turns JSON back into what was declared.

A `Kind` is both at once, so that a schema never promises what reading refuses. `annotations.py` makes them of annotations.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, Protocol, cast

Schema = dict[str, Any]


class Unfit(ValueError):
    """An argument is not of the declared type. The sentence is for the model, and names it: `args.place.lat must …`."""


class Kind(Protocol):
    """A type, told as JSON Schema, that reads JSON."""

    @property
    def told(self) -> str:
        """What it is, in a sentence: `a string`."""
        ...

    @property
    def schema(self) -> Schema: ...

    def read(self, value: object, where: str) -> Any:
        """The value of the declared type. Raises Unfit, which says `where`."""
        ...


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON, taken as it is."""

    @property
    def told(self) -> str:
        return "anything"

    @property
    def schema(self) -> Schema:
        return {}

    def read(self, value: object, where: str) -> object:  # noqa: ARG002 - other kinds do say where
        return value


@dataclass(frozen=True, slots=True)
class Scalar:
    """`str`, `int`, `float`, `bool` or `None`. Like JSON Schema, an `int` takes 2.0 and a `float` 2; nothing else is converted."""

    type: type[str | int | float | bool | None]

    @property
    def told(self) -> str:
        return _SCALARS[self.type][1]

    @property
    def schema(self) -> Schema:
        return {"type": _SCALARS[self.type][0]}

    def read(self, value: object, where: str) -> object:
        match value:
            case bool() | str() | None if type(value) is self.type:
                return value
            case bool():  # which is an int to Python
                pass
            case int() | float() if self.type is float and abs(value) <= sys.float_info.max:
                return float(value)
            case int() | float() if self.type is int and value == int(value):
                return int(value)
            case _:
                pass
        raise _unfit(self, value, where)


@dataclass(frozen=True, slots=True)
class OneOf:
    """A closed set, a `Literal` or an `Enum`: pairs of what is sent and what it stands for."""

    choices: Sequence[tuple[Any, Any]]

    @property
    def told(self) -> str:
        return _either([json.dumps(sent, ensure_ascii=False) for sent, _ in self.choices])

    @property
    def schema(self) -> Schema:
        sent = [sent for sent, _ in self.choices]
        names = {_SCALARS[type(value)][0] for value in sent}
        return {**({"type": names.pop()} if len(names) == 1 else {}), "enum": sent}

    def read(self, value: object, where: str) -> object:
        for sent, meant in self.choices:
            # True == 1, which JSON knows to tell apart.
            if value == sent and isinstance(value, bool) == isinstance(sent, bool):
                return meant
        raise _unfit(self, value, where)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, or a tuple of any length, of one kind of items."""

    item: Kind
    make: Callable[[list[Any]], Any] = list

    @property
    def told(self) -> str:
        return "a list"

    @property
    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema}

    def read(self, value: object, where: str) -> object:
        return self.make([self.item.read(item, f"{where}[{at}]") for at, item in enumerate(_list(self, value, where))])


@dataclass(frozen=True, slots=True)
class TupleOf:
    """A tuple of so many items, each of its kind."""

    items: Sequence[Kind]

    @property
    def told(self) -> str:
        return f"a list of {len(self.items)}"

    @property
    def schema(self) -> Schema:
        schemas = [item.schema for item in self.items]
        size = {"minItems": len(schemas), "maxItems": len(schemas)}
        if not schemas:
            return {"type": "array", **size}
        # Some models' servers do not take `prefixItems`, and a pair of numbers does not need it.
        alike = all(schema == schemas[0] for schema in schemas)
        return {"type": "array", **({"items": schemas[0]} if alike else {"prefixItems": schemas}), **size}

    def read(self, value: object, where: str) -> object:
        values = _list(self, value, where)
        if len(values) != len(self.items):
            raise _unfit(self, value, where)
        pairs = zip(self.items, values, strict=True)
        return tuple(kind.read(item, f"{where}[{at}]") for at, (kind, item) in enumerate(pairs))


@dataclass(frozen=True, slots=True)
class DictOf:
    """An object with any names and one kind of values."""

    value: Kind

    @property
    def told(self) -> str:
        return "an object"

    @property
    def schema(self) -> Schema:
        inside = self.value.schema
        return {"type": "object", **({"additionalProperties": inside} if inside else {})}

    def read(self, value: object, where: str) -> object:
        return {name: self.value.read(item, _member(where, name)) for name, item in _object(self, value, where).items()}


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A union: the first of its members that fits."""

    members: Sequence[Kind]

    @property
    def told(self) -> str:
        return _either([member.told for member in self.members])

    @property
    def schema(self) -> Schema:
        return {"anyOf": [member.schema for member in self.members]}

    def read(self, value: object, where: str) -> object:
        unfit: list[Unfit] = []
        for member in self.members:
            try:
                return member.read(value, where)
            except Unfit as error:
                if member.told != "null":
                    unfit.append(error)
        if len(unfit) == 1 and value is not None:
            raise unfit[0]  # what the X of an `X | None` has to say is the better sentence
        raise _unfit(self, value, where)


@dataclass(frozen=True, slots=True)
class Described:
    """A kind with something to be said of it."""

    kind: Kind
    text: str

    @property
    def told(self) -> str:
        return self.kind.told

    @property
    def schema(self) -> Schema:
        return {**self.kind.schema, "description": self.text}

    def read(self, value: object, where: str) -> object:
        return self.kind.read(value, where)


@dataclass(frozen=True, slots=True)
class Member:
    """A named part of a `Record`."""

    kind: Kind
    required: bool = True
    more: Schema = field(default_factory=Schema)

    @property
    def schema(self) -> Schema:
        return {**self.kind.schema, **self.more}


@dataclass(frozen=True, slots=True)
class Record:
    """An object with members of these names and no others: a dataclass, a `TypedDict`, or the arguments of a function."""

    members: Mapping[str, Member]
    make: Callable[..., Any] = dict
    description: str = ""

    @property
    def told(self) -> str:
        return "an object"

    @property
    def schema(self) -> Schema:
        required = [name for name, member in self.members.items() if member.required]
        return {
            "type": "object",
            **({"description": self.description} if self.description else {}),
            "properties": {name: member.schema for name, member in self.members.items()},
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }

    def read(self, value: object, where: str) -> Any:
        given = _object(self, value, where)
        for name in given:
            if name not in self.members:
                known = f"; it has {', '.join(self.members)}" if self.members else ""
                raise Unfit(f"{where} has no member {_shown(name)}{known}")
        for name, member in self.members.items():
            if member.required and name not in given:
                raise Unfit(f"{_member(where, name)} is missing")
        read = {name: self.members[name].kind.read(item, _member(where, name)) for name, item in given.items()}
        try:
            return self.make(**read)
        except (TypeError, ValueError) as error:  # from a dataclass that looks at what it is given
            raise Unfit(f"{where}: {error}") from None


_SCALARS: Final[Mapping[type, tuple[str, str]]] = {
    str: ("string", "a string"),
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
    bool: ("boolean", "true or false"),
    NoneType: ("null", "null"),
}


def _list(kind: Kind, value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _unfit(kind, value, where)
    return cast("list[Any]", value)


def _object(kind: Kind, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unfit(kind, value, where)
    return cast("dict[str, Any]", value)


def _unfit(kind: Kind, value: object, where: str) -> Unfit:
    return Unfit(f"{where} must be {kind.told}, not {_shown(value)}")


def _member(where: str, name: str) -> str:
    return f"{where}.{name}" if name.isidentifier() else f"{where}[{_shown(name)}]"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _either(names: list[str]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
