"""The kinds of arguments that annotations name."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeGuard,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from cmdc_client.callbacks.docstrings import Docstring
from cmdc_client.callbacks.encoding import NotJson, dumps
from cmdc_client.callbacks.kinds import (
    AnyOf,
    Anything,
    Described,
    DictOf,
    Kind,
    ListOf,
    Member,
    OneOf,
    Record,
    Scalar,
    Schema,
    TupleOf,
    Unfit,
)


class InvalidTool(TypeError):
    """A function cannot be a tool; the sentence says why, and is for whoever wrote it."""


def kind_of(hint: Any, where: str, inside: frozenset[type[Any]] = frozenset()) -> Kind:
    """The kind of argument that an annotation names. Raises InvalidTool, which says `where` it stands.

    `inside` are the classes round it, by which a class that holds itself is noticed.
    """
    if hint is Any:
        return Anything()
    if hint in _SCALARS:
        return Scalar(NoneType if hint is None else hint)
    if isinstance(hint, NewType):
        return kind_of(hint.__supertype__, where, inside)
    if (aliased := getattr(hint, "__value__", None)) is not None:  # a `type` statement, from Python 3.12 on
        return kind_of(aliased, where, inside)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return _class(hint, where, inside)
    return _generic(hint, where, inside)


def member_of(
    hint: Any,
    where: str,
    *,
    required: bool = True,
    default: object = ...,
    text: str | None = None,
    inside: frozenset[type[Any]] = frozenset(),
) -> Member:
    """A parameter, or a part of a class. What `Annotated` says of it goes before the `text` of a docstring."""
    kind = kind_of(hint, where, inside)
    more: Schema = {}
    if text and not isinstance(kind, Described):
        more["description"] = text
    try:
        shown = json.loads(dumps(default))
        kind.read(shown, where)
    except (NotJson, Unfit):  # none, or one that only Python can tell
        pass
    else:
        more["default"] = shown
    return Member(kind, required, more)


def hints_of(annotations: Mapping[str, Any], namespace: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Annotations that may be strings, as what they mean. Raises InvalidTool."""
    holder = type("holder", (), {"__annotations__": dict(annotations)})
    return _resolved(holder, where, dict(namespace))


# ----------------------------------------------------------------------------------------------------------------------

_SCALARS = (str, int, float, bool, None, NoneType)
_SEQUENCES = (list, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


def _class(hint: type[Any], where: str, inside: frozenset[type[Any]]) -> Kind:
    if hint in inside:
        raise InvalidTool(f"{where}: {hint.__name__} holds itself, which a schema written in one piece cannot say")
    if issubclass(hint, Enum):
        return _enum(hint, where)
    if _is_typed_dict(hint):
        return _typed_dict(hint, where, inside | {hint})
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, where, inside | {hint})
    if hint in _SEQUENCES or hint is tuple:
        return ListOf(Anything(), tuple if hint is tuple else list)
    if hint in _MAPPINGS:
        return DictOf(Anything())
    raise _unsupported(hint, where)


def _generic(hint: Any, where: str, inside: frozenset[type[Any]]) -> Kind:
    origin, arguments = get_origin(hint), get_args(hint)
    if (
        origin is not None and not arguments and not isinstance(hint, types.GenericAlias)
    ):  # `typing.List`, not `tuple[()]`
        return _class(origin, where, inside)
    if origin is Annotated:
        kind = kind_of(arguments[0], where, inside)
        texts = [text for text in arguments[1:] if isinstance(text, str)]
        return Described(kind, texts[0]) if texts else kind
    if origin in (Union, UnionType):
        return AnyOf([kind_of(member, where, inside) for member in arguments])
    if origin is Literal:
        return OneOf([_choice(value, where) for value in arguments])
    if origin in _SEQUENCES:
        return ListOf(kind_of(arguments[0], f"{where}[…]", inside))
    if origin is tuple:
        return _tuple(arguments, where, inside)
    if origin in _MAPPINGS:
        if arguments[0] is not str:
            raise InvalidTool(f"{where}: the keys of {_named(hint)} must be str, as they are in JSON")
        return DictOf(kind_of(arguments[1], f"{where}[…]", inside))
    raise _unsupported(hint, where)


def _tuple(arguments: tuple[Any, ...], where: str, inside: frozenset[type[Any]]) -> Kind:
    if arguments[1:] == (...,):
        return ListOf(kind_of(arguments[0], f"{where}[…]", inside), tuple)
    return TupleOf([kind_of(item, f"{where}[{at}]", inside) for at, item in enumerate(arguments)])


def _choice(value: object, where: str) -> tuple[object, object]:
    sent = cast("object", value.value) if isinstance(value, Enum) else value
    if type(sent) not in (str, int, float, bool, NoneType):
        raise InvalidTool(f"{where}: {value!r} cannot be sent as JSON")
    return sent, value


def _enum(hint: type[Enum], where: str) -> Kind:
    if issubclass(hint, Flag) or not len(hint):
        raise InvalidTool(f"{where}: {hint.__name__} must be an Enum with members, and no Flag")
    return OneOf([_choice(member, where) for member in hint])


def _dataclass(hint: type[Any], where: str, inside: frozenset[type[Any]]) -> Kind:
    hints = _resolved(hint, where)
    if any(isinstance(found, dataclasses.InitVar) for found in hints.values()):
        raise InvalidTool(f"{where}: {hint.__name__} has an InitVar, which cannot be told to a model")
    told = _class_docstring(hint)
    members: dict[str, Member] = {}
    for field in dataclasses.fields(hint):
        if field.init:
            members[field.name] = member_of(
                hints[field.name],
                f"{where}.{field.name}",
                required=field.default is field.default_factory is dataclasses.MISSING,
                default=field.default,
                text=told.arguments.get(field.name),
                inside=inside,
            )
    return Record(members, cast("Callable[..., Any]", hint), told.summary)


def _typed_dict(hint: Any, where: str, inside: frozenset[type[Any]]) -> Kind:
    told = _class_docstring(hint)
    required: frozenset[str] = hint.__required_keys__
    members: dict[str, Member] = {}
    for name, written in _resolved(hint, where).items():
        # Where annotations are strings, `__required_keys__` does not know what is written inside them.
        bare, needed = written, name in required
        while (marker := get_origin(bare)) in (Required, NotRequired):
            bare, needed = get_args(bare)[0], marker is Required
        text = told.arguments.get(name)
        members[name] = member_of(bare, f"{where}.{name}", required=needed, text=text, inside=inside)
    return Record(members, description=told.summary)


def _is_typed_dict(hint: type[Any]) -> TypeGuard[Any]:
    # By what it has, for `typing_extensions` has a class of its own for it.
    return hasattr(hint, "__required_keys__") and hasattr(hint, "__total__")


def _class_docstring(hint: type[Any]) -> Docstring:
    text = hint.__doc__ or ""
    generated = text.startswith(f"{hint.__name__}(")  # by `dataclass`
    return Docstring.parse("" if generated else text)


def _resolved(holder: type, where: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        return get_type_hints(holder, namespace, include_extras=True)
    except NameError as error:
        raise InvalidTool(f"{where}: {error}; types of a tool must be known at the level of the module") from None
    except (TypeError, SyntaxError) as error:
        raise InvalidTool(f"{where}: its annotations cannot be understood: {error}") from None


def _unsupported(hint: Any, where: str) -> InvalidTool:
    return InvalidTool(
        f"{where}: {_named(hint)} cannot be told to a model; use str, int, float, bool, None, Any, list, tuple,"
        " dict[str, …], Literal, an Enum, a TypedDict, a dataclass, or a union of these"
    )


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
