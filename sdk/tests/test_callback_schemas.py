"""The schema that a model receives for a Python function, and the conversion of arguments and results."""

from __future__ import annotations

import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import (  # noqa: UP035 - older programs use `List`
    TYPE_CHECKING,
    Annotated,
    Any,
    List,
    Literal,
    NewType,
    NotRequired,
    Optional,
    Required,
    Union,
    cast,
)
from uuid import UUID

import jsonschema_rs
import pytest
from cmdc_client.callbacks import CallbackCall, InvalidTool, Tool, Tools
from cmdc_client.callbacks.arguments import ArgumentError, Arguments
from cmdc_client.callbacks.serialization import NotSerializable, to_json
from cmdc_gateway.tools.schema import Parameters
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from fractions import Fraction

City = NewType("City", str)


class Unit(Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Color(StrEnum):
    RED = "red"


@dataclass
class Place:
    """A place on earth."""

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(description="Degrees east.")]
    tags: list[str] = field(default_factory=list[str])
    kind: Literal["city", "village"] = "city"
    seen: bool = field(default=False, init=False)


@dataclass(frozen=True, kw_only=True)
class Range:
    low: int = 0
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")


class Booking(BaseModel):
    """A booking."""

    day: date
    guests: int = Field(default=1, ge=1)


class Tree(BaseModel):
    children: list[Tree] = []


class Movie(TypedDict):
    """A film."""

    title: str
    year: NotRequired[int]


class Rated(Movie, total=False):
    stars: Required[int]
    critic: str


STRING, INTEGER, NUMBER, NULL = ({"type": name} for name in ("string", "integer", "number", "null"))
PLACE = {
    "type": "object",
    "title": "Place",
    "description": "A place on earth.",
    "properties": {
        "lat": {"type": "number", "minimum": -90, "maximum": 90},
        "lon": {"type": "number", "description": "Degrees east."},
        "tags": {"type": "array", "items": STRING},
        "kind": {"type": "string", "enum": ["city", "village"], "default": "city"},
    },
    "required": ["lat", "lon"],
    "additionalProperties": False,
}
UNIT = {"type": "string", "title": "Unit", "enum": ["C", "F"]}
MOVIE = {"title": STRING, "year": INTEGER}


def arguments_of(hint: Any) -> Arguments:
    """Return the arguments of a tool `f` with one parameter `x` of this type."""
    return Arguments("f", [inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=hint)], {})


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the schema of a type, which may have been moved to the definitions."""
    schema = arguments_of(hint).schema
    Parameters(schema)  # raises unless the gateway accepts it
    found: dict[str, Any] = schema["properties"]["x"]
    name = str(found.get("$ref", "")).removeprefix("#/$defs/")
    return schema["$defs"][name] if name else found


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, STRING),
        (int, INTEGER),
        (float, NUMBER),
        (bool, {"type": "boolean"}),
        (None, NULL),
        (Any, {}),
        (City, STRING),
        (str | None, {"anyOf": [STRING, NULL]}),
        (Optional[int], {"anyOf": [INTEGER, NULL]}),  # noqa: UP045
        (Union[str, int], {"anyOf": [STRING, INTEGER]}),  # noqa: UP007
        (list[int], {"type": "array", "items": INTEGER}),
        (List[int], {"type": "array", "items": INTEGER}),  # noqa: UP006
        (Sequence[int], {"type": "array", "items": INTEGER}),
        (set[int], {"type": "array", "items": INTEGER, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": INTEGER}),
        (tuple[str, int], {"type": "array", "prefixItems": [STRING, INTEGER], "minItems": 2, "maxItems": 2}),
        (dict[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (Mapping[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),  # noqa: PYI061
        (Unit, UNIT),
        (Level, {"type": "integer", "title": "Level", "enum": [1, 2]}),
        (Color, {"type": "string", "title": "Color", "enum": ["red"]}),
        (date, {"type": "string", "format": "date"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Annotated[str, "A name.", 7], {"type": "string", "description": "A name."}),
        (Annotated[int, Field(ge=0, description="How many.")], {**INTEGER, "minimum": 0, "description": "How many."}),
        (Place, PLACE),
        (
            Booking,
            {
                "type": "object",
                "title": "Booking",
                "description": "A booking.",
                "properties": {
                    "day": {"type": "string", "format": "date"},
                    "guests": {"type": "integer", "minimum": 1, "default": 1},
                },
                "required": ["day"],
            },
        ),
        (
            Tree,
            {
                "type": "object",
                "title": "Tree",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}, "default": []}},
            },
        ),
        (
            Rated,
            {
                "type": "object",
                "title": "Rated",
                "properties": {**MOVIE, "stars": INTEGER, "critic": STRING},
                "required": ["title", "stars"],
                "additionalProperties": False,
            },
        ),
    ],
    ids=str,
)
def test_a_type_has_this_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Callable[[], None], "f(x): unsupported type: Cannot generate a JsonSchema"),
        (inspect.Signature, "f(x): unsupported type: Unable to generate pydantic-core schema for <class 'inspect.Sig"),
        (list[inspect.Signature], "f(x): unsupported type: Unable to generate pydantic-core schema"),
    ],
    ids=str,
)
def test_an_unsupported_type_is_reported_with_its_parameter(hint: Any, message: str) -> None:
    with pytest.raises(InvalidTool) as error:
        arguments_of(hint)

    assert str(error.value).startswith(message)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic supports typing.TypedDict from Python 3.12 on")
def test_a_typed_dict_of_typing_is_rejected_with_a_hint() -> None:
    with pytest.raises(InvalidTool, match=r"f\(x\): unsupported type: Please use `typing_extensions.TypedDict`"):
        arguments_of(typing.TypedDict("Options", {"a": int}))


class Unresolved(BaseModel):
    ratio: Fraction


def test_a_model_with_an_undefined_type_is_rejected() -> None:
    with pytest.raises(InvalidTool, match=r"f\(x\): unsupported type: .*Unresolved.* is not fully defined"):
        arguments_of(Unresolved)


# -- functions ---------------------------------------------------------------------------------------------------------


def tool_of(function: Callable[..., object], **options: Any) -> Tool:
    tools = Tools()
    tools.tool(**options)(function)
    [tool] = tools
    return tool


def forecast(  # noqa: D417 - only some of the arguments are described here
    place: Place,
    /,
    days: Annotated[int, "How many."] = 3,
    *,
    unit: Unit = Unit.CELSIUS,
    by_hour: bool = False,
    near: tuple[float, float] | None = None,
    far: float = float("inf"),
) -> Fraction:  # a type that exists for type checkers only
    """Forecast the weather of the days
    to come.

    It is not always right.

    Args:
        place: Where.
        days: Ignored, because Annotated has a description.
        unit (Unit): Celsius or Fahrenheit,
            as you prefer.

            A paragraph after an empty line belongs to the description too.
        unknown: Not a parameter.

    Returns:
        by_hour: This is another section.
    """  # noqa: D205 - the first sentence spans two lines
    raise NotImplementedError


def test_the_schema_of_a_function_comes_from_its_signature_and_its_docstring() -> None:
    tool = tool_of(forecast)

    assert (tool.name, tool.description) == ("forecast", "Forecast the weather of the days to come.")
    assert tool.parameters == {
        "$defs": {"Place": PLACE, "Unit": UNIT},
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where."},
            "days": {"type": "integer", "description": "How many.", "default": 3},
            "unit": {
                "$ref": "#/$defs/Unit",
                "description": (
                    "Celsius or Fahrenheit, as you prefer. A paragraph after an empty line belongs to the description too."
                ),
                "default": "C",
            },
            "by_hour": {"type": "boolean", "default": False},
            "near": {
                "anyOf": [{"type": "array", "prefixItems": [NUMBER, NUMBER], "minItems": 2, "maxItems": 2}, NULL],
                "default": None,
            },
            "far": NUMBER,
        },
        "required": ["place"],
        "additionalProperties": False,
    }
    Parameters(tool.parameters)  # raises unless the gateway accepts it


def test_a_decorated_function_is_unchanged() -> None:
    tools = Tools()

    @tools.tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    @tools.tool(name="half-of", description="Halve a number.", timeout_ms=5, requires_approval=True, idempotent=True)
    def half(number: int) -> float:
        return number / 2

    assert (double(4), half(4)) == (8, 2.0)
    assert [(tool.name, tool.description, tool.timeout_ms) for tool in tools] == [
        ("double", "Double a number.", None),
        ("half-of", "Halve a number.", 5),
    ]
    assert [(tool.requires_approval, tool.idempotent) for tool in tools] == [(False, False), (True, True)]
    assert (len(tools), tools.get("half-of"), tools.get("half")) == (2, [*tools][1], None)


def test_a_function_without_parameters_accepts_no_arguments() -> None:
    def now() -> str:
        """Get the time."""
        return ""

    tool = tool_of(now)

    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(ArgumentError, match=r"args\.x: Extra inputs are not permitted, not 1"):
        tool.bind(CallbackCall("c", "now", {"x": 1}, "s"))


def test_a_bound_method_is_a_tool() -> None:
    class Shop:
        def price(self, item: str) -> int:
            """Get the price."""
            return len(item)

    assert tool_of(Shop().price).parameters["required"] == ["item"]


def test_a_parameter_for_the_call_is_not_an_argument() -> None:
    def who(name: str, call: CallbackCall) -> str:
        """Describe the caller."""
        return f"{name} in {call.session_id}"

    tool, call = tool_of(who), CallbackCall("c", "who", {"name": "Ada"}, "demo")

    bound = tool.bind(call)

    assert list(tool.parameters["properties"]) == ["name"]
    assert who(*bound.args, **bound.kwargs) == "Ada in demo"


def untyped(x) -> None:  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    """Without annotations."""


def starred(*numbers: int) -> None:
    """With a variable number of arguments."""


def undefined(x: Fraction) -> None:
    """With a type that exists for type checkers only."""


def field_default(x: int = Field(3)) -> None:
    """With a Field as a default."""


def without_docstring() -> None:
    pass


def without_summary() -> None:
    """
    Args:
        x: A description of an argument only.
    """  # noqa: D205, D212


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (cast("Callable[..., object]", untyped), {}, "untyped(x): the type annotation is missing"),
        (starred, {}, "starred(numbers): * and ** parameters are not supported"),
        (undefined, {}, "undefined: name 'Fraction' is not defined; the types of a tool must be defined at module"),
        (field_default, {}, "field_default(x): write Annotated[…, Field(…)] instead"),
        (without_docstring, {}, "without_docstring: the description is missing"),
        (without_summary, {}, "without_summary: the description is missing"),
        (forecast, {"description": ""}, "forecast: the description is missing"),
        (forecast, {"name": "fore cast"}, "'fore cast' is not a valid name of a tool"),
        (forecast, {"name": "x" * 65}, "is not a valid name of a tool"),
        (forecast, {"name": "ask_user"}, "'ask_user' is not a valid name of a tool"),
        (lambda: None, {"description": "x"}, "'<lambda>' is not a valid name of a tool"),
        (forecast, {"timeout_ms": 0}, "forecast: timeout_ms must be from 1 to 300000"),
        (forecast, {"timeout_ms": 300_001}, "forecast: timeout_ms must be from 1 to 300000"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_rejected(
    function: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    tools = Tools()

    with pytest.raises(InvalidTool) as error:
        tools.tool(**options)(function)

    assert message in str(error.value)
    assert list(tools) == []


def test_two_tools_cannot_have_the_same_name() -> None:
    tools = Tools()
    tools.tool(forecast)

    with pytest.raises(InvalidTool, match="there already is a tool named 'forecast'"):
        tools.tool(forecast)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_are_converted_to_the_declared_types() -> None:
    args = {"place": {"lat": 60, "lon": 11.5, "tags": ["x"]}, "unit": "F", "days": 2.0, "near": [1, 2]}

    bound = tool_of(forecast).bind(CallbackCall("c", "forecast", args, "s"))

    assert bound.args == (Place(60.0, 11.5, ["x"]), 2)
    assert bound.kwargs == {"unit": Unit.FAHRENHEIT, "by_hour": False, "near": (1.0, 2.0), "far": float("inf")}
    assert isinstance(bound.args[1], int)


def test_models_dates_and_decimals_are_converted() -> None:
    def book(booking: Booking, until: datetime, price: Decimal, ids: set[UUID]) -> None:
        """Book a room."""

    identifier = "00000000-0000-0000-0000-000000000001"
    args = {
        "booking": {"day": "2026-12-01"},
        "until": "2026-12-02T10:00:00Z",
        "price": "9.90",
        "ids": [identifier],
    }

    bound = tool_of(book).bind(CallbackCall("c", "book", args, "s"))

    until = datetime(2026, 12, 2, 10, tzinfo=UTC)
    assert bound.args == (Booking(day=date(2026, 12, 1)), until, Decimal("9.90"), {UUID(identifier)})


def test_an_omitted_positional_only_argument_has_its_default() -> None:
    def add(a: int = 1, b: int = 2, /) -> int:
        """Add two numbers."""
        return a + b

    bound = tool_of(add).bind(CallbackCall("c", "add", {"b": 5}, "s"))

    assert add(*bound.args, **bound.kwargs) == 6


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (str, 1, "args.x: Input should be a valid string, not 1"),
        (int, "1", 'args.x: Input should be a valid integer, not "1"'),
        (int, 1.5, "args.x: Input should be a valid integer, not 1.5"),
        (int, True, "args.x: Input should be a valid integer, not true"),
        (float, False, "args.x: Input should be a valid number, not false"),
        (float, 10**400, "args.x: Input should be a finite number, not 1000"),
        (float, 1e400, "args: Out of range float values are not JSON compliant"),
        (bool, 1, "args.x: Input should be a valid boolean, not 1"),
        (None, 0, "args.x: Input should be null, not 0"),
        (str | None, 1, "args.x: Input should be a valid string, not 1"),
        (
            str | int,
            1.5,
            "args.x: Input should be a valid string, not 1.5; args.x: Input should be a valid integer, not 1.5",
        ),
        (list[int], [1, "2"], 'args.x[1]: Input should be a valid integer, not "2"'),
        (list[int], ["a"] * 7, 'args.x[4]: Input should be a valid integer, not "a"; and 2 more errors'),
        (list[int], {}, "args.x: Input should be a valid array, not {}"),
        (tuple[int, int], [1], "args.x[1]: Field required"),
        (dict[str, int], {"a b": "c"}, 'args.x["a b"]: Input should be a valid integer, not "c"'),
        (Unit, "K", "args.x: Input should be 'C' or 'F', not \"K\""),
        (date, "soon", "args.x: Input should be a valid date"),
        (
            Booking,
            {"day": "2026-12-01", "guests": 0},
            "args.x.guests: Input should be greater than or equal to 1, not 0",
        ),
        (Place, {"lat": 1}, "args.x.lon: Field required"),
        (Place | None, {"lat": 1}, "args.x.lon: Field required"),
        (Place, {"lat": 1, "lon": 2, "seen": True}, "args.x.seen: Unexpected keyword argument, not true"),
        (Place, {"lat": 1, "lon": 2, "tags": [None]}, "args.x.tags[0]: Input should be a valid string, not null"),
        (Range, {"low": 2, "high": 1}, "args.x: Value error, low (2) is above high (1)"),
        (Movie, {"title": None}, "args.x.title: Input should be a valid string, not null"),
        (str, ["y" * 100], 'args.x: Input should be a valid string, not ["' + "y" * 77 + "…"),
        (str, "\ud800", "args: Invalid JSON"),
    ],
)
def test_an_invalid_argument_is_reported_with_its_path_and_value(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        arguments_of(hint).parse({"x": value})

    assert message in str(error.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3).map(lambda x: round(x * 2) / 2)
    | st.text("aC", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["lat", "lon", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
RANGES = st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(lambda two: Range(low=min(two), high=max(two)))

Typed = tuple[Any, st.SearchStrategy[Any]]
"""A type, and values of it."""


def compound(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types that are composed of other types."""

    def options(typed: Typed) -> list[Typed]:
        hint, values = typed
        return [
            (list[hint], st.lists(values, max_size=3)),
            (tuple[hint, ...], st.lists(values, max_size=3).map(tuple)),
            (dict[str, hint], st.dictionaries(st.text(), values, max_size=3)),
            (hint | None, st.none() | values),
            (Annotated[hint, Field(description="Something.")], values),
        ]

    pairs = st.tuples(inner, inner).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1])))
    return inner.flatmap(lambda typed: st.sampled_from(options(typed))) | pairs


TYPES = st.recursive(
    st.sampled_from(
        [
            (str, st.text()),
            (int, st.integers()),
            (float, FLOATS),
            (bool, st.booleans()),
            (Unit, st.sampled_from(Unit)),
            (Level, st.sampled_from(Level)),
            (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
            (Range, RANGES),
            (Movie, st.fixed_dictionaries({"title": st.text()}, optional={"year": st.integers()})),
            (date, st.dates()),
            (Booking, st.builds(Booking, day=st.dates(), guests=st.integers(1, 9))),
        ]
    ),
    compound,
    max_leaves=4,
)


@given(st.data())
def test_a_serialized_value_is_converted_back(data: st.DataObject) -> None:
    hint, values = data.draw(TYPES)
    value = data.draw(values)
    arguments, sent = arguments_of(hint), json.loads(to_json({"x": value}))

    assert jsonschema_rs.is_valid(arguments.schema, sent)
    received = arguments.parse(sent)["x"]
    assert (received, type(received)) == (value, type(value))


@given(typed=TYPES, value=JSON)
def test_exactly_the_values_that_match_the_schema_are_accepted(typed: Typed, value: Any) -> None:
    arguments = arguments_of(typed[0])

    try:
        arguments.parse({"x": value})
    except ArgumentError:
        accepted = False
    else:
        accepted = True

    assert jsonschema_rs.validator_for(arguments.schema, validate_formats=True).is_valid({"x": value}) == accepted


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_may_contain_everything_that_arguments_may() -> None:
    result = {
        "place": Place(1.0, 2.0),
        "unit": Unit.CELSIUS,
        "level": Level.LOW,
        "pair": (1, "ö"),
        "booking": Booking(day=date(2026, 12, 1)),
        "at": datetime(2026, 12, 1, tzinfo=UTC),
        "set": {1},
    }

    assert json.loads(to_json(result)) == {
        "place": {"lat": 1.0, "lon": 2.0, "tags": [], "kind": "city", "seen": False},
        "unit": "C",
        "level": 1,
        "pair": [1, "ö"],
        "booking": {"day": "2026-12-01", "guests": 1},
        "at": "2026-12-01T00:00:00Z",
        "set": [1],
    }


@dataclass
class Node:
    next: Node | None = None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Place, "Unable to serialize unknown type: <class 'type'>"),
        (float("nan"), "not JSON compliant"),
        (Range(low=0, high=cast("int", float("nan"))), "not JSON compliant"),
        ("\ud800", "lone surrogate"),
        ({(1, 2): 3}, "keys must be str"),
    ],
    ids=str,
)
def test_a_result_that_is_not_json_is_reported(result: Any, message: str) -> None:
    with pytest.raises(NotSerializable, match=message):
        to_json(result)


def test_a_result_that_contains_itself_is_not_json() -> None:
    endless: list[Any] = []
    endless.append(endless)
    node = Node()
    node.next = node

    for result in (endless, node):
        with pytest.raises(NotSerializable, match="Circular"):
            to_json(result)
