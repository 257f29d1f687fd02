"""What a model is told of a Python function, and how its arguments become the function's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, Flag, IntEnum, StrEnum
from typing import (  # noqa: UP035 - older programs write `List`, and it is to be understood
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    List,
    Literal,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
    cast,
)

import jsonschema_rs
import pytest
import typing_extensions
from cmdc_client.callbacks import CallbackCall, InvalidTool, Tool, Tools
from cmdc_client.callbacks.annotations import kind_of
from cmdc_client.callbacks.encoding import NotJson, dumps
from cmdc_client.callbacks.kinds import Unfit
from cmdc_gateway.tools.schema import Parameters
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")
City = NewType("City", str)


class Unit(Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Colour(StrEnum):
    RED = "red"


class Rights(Flag):
    READ = 1


class Empty(Enum):
    pass


class Odd(Enum):
    PAIR = (1, 2)


@dataclass
class Place:
    """A place on earth.

    Attributes:
        lat: Degrees north.
    """

    lat: float
    lon: Annotated[float, "Degrees east."]
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


@dataclass
class Tree:
    children: list[Tree]


@dataclass
class Seeded:
    seed: dataclasses.InitVar[int]


class Movie(TypedDict):
    """A film."""

    title: str
    year: NotRequired[int]


class Rated(Movie, total=False):
    stars: Required[int]
    critic: str


class Extended(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[str]


class Box(TypedDict, Generic[T]):
    held: T


STRING, INTEGER, NUMBER, NULL = ({"type": name} for name in ("string", "integer", "number", "null"))
PLACE = {
    "type": "object",
    "description": "A place on earth.",
    "properties": {
        "lat": {"type": "number", "description": "Degrees north."},
        "lon": {"type": "number", "description": "Degrees east."},
        "tags": {"type": "array", "items": STRING},
        "kind": {"type": "string", "enum": ["city", "village"], "default": "city"},
    },
    "required": ["lat", "lon"],
    "additionalProperties": False,
}
MOVIE = {"title": STRING, "year": INTEGER}


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
        (list, {"type": "array", "items": {}}),
        (List, {"type": "array", "items": {}}),  # noqa: UP006
        (tuple, {"type": "array", "items": {}}),
        (tuple[int, ...], {"type": "array", "items": INTEGER}),
        (tuple[float, float], {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}),
        (tuple[str, int], {"type": "array", "prefixItems": [STRING, INTEGER], "minItems": 2, "maxItems": 2}),
        (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
        (dict[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (Mapping[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (dict[str, Any], {"type": "object"}),
        (dict, {"type": "object"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),  # noqa: PYI061
        (Literal[Unit.CELSIUS], {"type": "string", "enum": ["C"]}),
        (Unit, {"type": "string", "enum": ["C", "F"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Colour, {"type": "string", "enum": ["red"]}),
        (Annotated[str, "A name.", 7], {"type": "string", "description": "A name."}),
        (Annotated[str, 7], STRING),
        (list[Annotated[str, "A name."]], {"type": "array", "items": {"type": "string", "description": "A name."}}),
        (Place, PLACE),
        (
            Range,
            {
                "type": "object",
                "properties": {"low": {"type": "integer", "default": 0}, "high": INTEGER},
                "required": ["high"],
                "additionalProperties": False,
            },
        ),
        (
            Movie,
            {
                "type": "object",
                "description": "A film.",
                "properties": MOVIE,
                "required": ["title"],
                "additionalProperties": False,
            },
        ),
        (
            Rated,
            {
                "type": "object",
                "properties": {**MOVIE, "stars": INTEGER, "critic": STRING},
                "required": ["title", "stars"],
                "additionalProperties": False,
            },
        ),
        (
            Extended,
            {
                "type": "object",
                "properties": {"a": INTEGER, "b": STRING},
                "required": ["a"],
                "additionalProperties": False,
            },
        ),
    ],
    ids=str,
)
def test_a_type_is_told_as_this_schema(hint: Any, schema: dict[str, Any]) -> None:
    told = kind_of(hint, "f(x)").schema

    assert told == schema
    jsonschema_rs.meta.validate(told)


@pytest.mark.parametrize(
    ("hint", "sentence"),
    [
        (bytes, "f(x): bytes cannot be told to a model; use str, int, float"),
        (datetime, "f(x): datetime cannot be told to a model"),
        (set[int], "f(x): set[int] cannot be told to a model"),
        (object, "f(x): object cannot be told to a model"),
        (Callable[[], None], "cannot be told to a model"),
        (T, "f(x): ~T cannot be told to a model"),
        (Box[int], "cannot be told to a model"),
        (dict[int, str], "f(x): the keys of dict[int, str] must be str, as they are in JSON"),
        (list[bytes], "f(x)[…]: bytes cannot be told"),
        (tuple[int, bytes], "f(x)[1]: bytes cannot be told"),
        (int | bytes, "f(x): bytes cannot be told"),
        (Literal[b"a"], "f(x): b'a' cannot be sent as JSON"),
        (Rights, "f(x): Rights must be an Enum with members, and no Flag"),
        (Empty, "f(x): Empty must be an Enum with members"),
        (Odd, "f(x): <Odd.PAIR: (1, 2)> cannot be sent as JSON"),
        (Tree, "f(x).children[…]: Tree holds itself"),
        (Seeded, "f(x): Seeded has an InitVar"),
    ],
    ids=str,
)
def test_a_type_that_cannot_be_told_is_said_where_the_tool_is_made(hint: Any, sentence: str) -> None:
    with pytest.raises(InvalidTool) as error:
        kind_of(hint, "f(x)")

    assert sentence in str(error.value)


# -- functions ---------------------------------------------------------------------------------------------------------


def tool_of(function: Callable[..., object], **options: Any) -> Tool:
    tools = Tools()
    tools.tool(**options)(function)
    [tool] = tools
    return tool


def forecast(  # noqa: D417 - some of its arguments are told otherwise, or not at all
    place: Place,
    /,
    days: Annotated[int, "How many."] = 3,
    *,
    unit: Unit = Unit.CELSIUS,
    by_hour: bool = False,
    near: tuple[float, float] | None = None,
    far: float = float("inf"),
) -> Decimal:  # known to type checkers alone
    """The weather of the days
    to come.

    It is not always right.

    Args:
        place: Where.
        days: Not this, for Annotated has said it.
        unit (Unit): Celsius or Fahrenheit,
            as one likes.

            What follows an empty line belongs to it too.
        nobody: Is no parameter.

    Returns:
        by_hour: This is another section.
    """  # noqa: D205 - the first sentence goes over a line
    raise NotImplementedError


def test_a_function_is_told_by_its_signature_and_its_docstring() -> None:
    tool = tool_of(forecast)

    assert (tool.name, tool.description) == ("forecast", "The weather of the days to come.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "place": {**PLACE, "description": "Where."},
            "days": {"type": "integer", "description": "How many.", "default": 3},
            "unit": {
                "type": "string",
                "enum": ["C", "F"],
                "description": "Celsius or Fahrenheit, as one likes. What follows an empty line belongs to it too.",
                "default": "C",
            },
            "by_hour": {"type": "boolean", "default": False},
            "near": {
                "anyOf": [{"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}, NULL],
                "default": None,
            },
            "far": NUMBER,
        },
        "required": ["place"],
        "additionalProperties": False,
    }
    Parameters(tool.parameters)  # the gateway takes it


def test_a_decorated_function_is_what_it_was() -> None:
    tools = Tools()

    @tools.tool
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    @tools.tool(name="half-of", description="Half as much.", timeout_ms=5, requires_approval=True, idempotent=True)
    def half(number: int) -> float:
        return number / 2

    assert (double(4), half(4)) == (8, 2.0)
    assert [(tool.name, tool.description, tool.timeout_ms) for tool in tools] == [
        ("double", "Twice as much.", None),
        ("half-of", "Half as much.", 5),
    ]
    assert [(tool.requires_approval, tool.idempotent) for tool in tools] == [(False, False), (True, True)]
    assert (len(tools), tools.get("half-of"), tools.get("half")) == (2, [*tools][1], None)


def test_a_function_without_arguments_takes_none() -> None:
    def now() -> str:
        """The time."""
        return ""

    tool = tool_of(now)

    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(Unfit, match='args has no member "x"'):
        tool.bind(CallbackCall("c", "now", {"x": 1}, "s"))


def test_a_method_is_a_tool_of_its_object() -> None:
    class Shop:
        def price(self, item: str) -> int:
            """What it costs."""
            return len(item)

    assert tool_of(Shop().price).parameters["required"] == ["item"]


def test_a_parameter_for_the_call_itself_is_no_argument() -> None:
    def who(name: str, call: CallbackCall) -> str:
        """Who asks."""
        return f"{name} in {call.session_id}"

    tool, call = tool_of(who), CallbackCall("c", "who", {"name": "Ada"}, "demo")

    bound = tool.bind(call)

    assert list(tool.parameters["properties"]) == ["name"]
    assert who(*bound.args, **bound.kwargs) == "Ada in demo"


def untyped(x) -> None:  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    """It has no types."""


def starred(*numbers: int) -> None:
    """It has no names."""


def unknown(x: Decimal) -> None:
    """Its type is there for type checkers alone."""


def silent() -> None:
    pass


def headless() -> None:
    """
    Args:
        x: Nothing is said before this.
    """  # noqa: D205, D212


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (cast("Callable[..., object]", untyped), {}, "untyped(x): it has no type"),
        (starred, {}, "starred(numbers): the arguments of a tool have names"),
        (unknown, {}, "unknown: name 'Decimal' is not defined; types of a tool must be known"),
        (silent, {}, "silent: the model has to be told what it does"),
        (headless, {}, "headless: the model has to be told what it does"),
        (forecast, {"description": ""}, "forecast: the model has to be told what it does"),
        (forecast, {"name": "fore cast"}, "'fore cast' is no name of a tool"),
        (forecast, {"name": "x" * 65}, "is no name of a tool"),
        (forecast, {"name": "ask_user"}, "'ask_user' is no name of a tool"),
        (lambda: None, {"description": "x"}, "'<lambda>' is no name of a tool"),
        (forecast, {"timeout_ms": 0}, "forecast: timeout_ms must be from 1 to 300000"),
        (forecast, {"timeout_ms": 300_001}, "forecast: timeout_ms must be from 1 to 300000"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_with_a_reason(
    function: Callable[..., object], options: dict[str, Any], sentence: str
) -> None:
    tools = Tools()

    with pytest.raises(InvalidTool) as error:
        tools.tool(**options)(function)

    assert sentence in str(error.value)
    assert list(tools) == []


def test_two_tools_cannot_have_one_name() -> None:
    tools = Tools()
    tools.tool(forecast)

    with pytest.raises(InvalidTool, match="there is a tool 'forecast' already"):
        tools.tool(forecast)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_become_what_the_function_declares() -> None:
    args = {"place": {"lat": 60, "lon": 11.5, "tags": ["x"]}, "unit": "F", "days": 2.0, "near": [1, 2]}

    bound = tool_of(forecast).bind(CallbackCall("c", "forecast", args, "s"))

    assert bound.args == (Place(60.0, 11.5, ["x"]), 2)
    assert bound.kwargs == {"unit": Unit.FAHRENHEIT, "by_hour": False, "near": (1.0, 2.0), "far": float("inf")}
    assert isinstance(bound.args[1], int)


def test_a_positional_only_argument_that_is_left_out_has_its_default() -> None:
    def add(a: int = 1, b: int = 2, /) -> int:
        """The sum."""
        return a + b

    bound = tool_of(add).bind(CallbackCall("c", "add", {"b": 5}, "s"))

    assert add(*bound.args, **bound.kwargs) == 6


@pytest.mark.parametrize(
    ("hint", "value", "sentence"),
    [
        (str, 1, "x must be a string, not 1"),
        (int, "1", 'x must be a whole number, not "1"'),
        (int, 1.5, "x must be a whole number, not 1.5"),
        (int, True, "x must be a whole number, not true"),
        (float, False, "x must be a number, not false"),
        (float, 10**400, "x must be a number, not 1000"),
        (bool, 1, "x must be true or false, not 1"),
        (None, 0, "x must be null, not 0"),
        (str | None, 1, "x must be a string, not 1"),
        (str | int | None, 1.5, "x must be a string, a whole number or null, not 1.5"),
        (list[int], [1, "2"], 'x[1] must be a whole number, not "2"'),
        (list[int], {}, "x must be a list, not {}"),
        (tuple[int, int], [1], "x must be a list of 2, not [1]"),
        (dict[str, int], {"a b": "c"}, 'x["a b"] must be a whole number, not "c"'),
        (Unit, "K", 'x must be "C" or "F", not "K"'),
        (Literal[1], True, "x must be 1, not true"),
        (Place, {"lat": 1}, "x.lon is missing"),
        (Place | None, {"lat": 1}, "x.lon is missing"),
        (Place, {"lat": 1, "lon": 2, "seen": True}, 'x has no member "seen"; it has lat, lon, tags, kind'),
        (Place, {"lat": 1, "lon": 2, "tags": [None]}, "x.tags[0] must be a string, not null"),
        (Range, {"low": 2, "high": 1}, "x: low (2) is above high (1)"),
        (Movie, {"title": None}, "x.title must be a string, not null"),
        (str, ["y" * 100], 'x must be a string, not ["' + "y" * 77 + "…"),
    ],
)
def test_what_is_wrong_with_an_argument_is_a_sentence_for_the_model(hint: Any, value: Any, sentence: str) -> None:
    with pytest.raises(Unfit) as error:
        kind_of(hint, "f(x)").read(value, "x")

    assert str(error.value).startswith(sentence)


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
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
RANGES = st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(lambda two: Range(low=min(two), high=max(two)))

Typed = tuple[Any, st.SearchStrategy[Any]]
"""A type, and values of it."""


def around(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types made of other types."""

    def one(typed: Typed) -> list[Typed]:
        hint, values = typed
        return [
            (list[hint], st.lists(values, max_size=3)),
            (tuple[hint, ...], st.lists(values, max_size=3).map(tuple)),
            (dict[str, hint], st.dictionaries(st.text(), values, max_size=3)),
            (hint | None, st.none() | values),
            (Annotated[hint, "Something."], values),
        ]

    pairs = st.tuples(inner, inner).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1])))
    return inner.flatmap(lambda typed: st.sampled_from(one(typed))) | pairs


TYPES = st.recursive(
    st.sampled_from(
        [
            (str, st.text()),
            (int, INT64),
            (float, FLOATS),
            (bool, st.booleans()),
            (Unit, st.sampled_from(Unit)),
            (Level, st.sampled_from(Level)),
            (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
            (Range, RANGES),
            (Movie, st.fixed_dictionaries({"title": st.text()}, optional={"year": INT64})),
        ]
    ),
    around,
    max_leaves=4,
)


@given(st.data())
def test_a_value_that_went_over_the_wire_is_the_same_value(data: st.DataObject) -> None:
    hint, values = data.draw(TYPES)
    value = data.draw(values)
    kind, sent = kind_of(hint, "f(x)"), json.loads(dumps(value))

    assert jsonschema_rs.is_valid(kind.schema, sent)
    read = kind.read(sent, "x")
    assert (read, type(read)) == (value, type(value))


@given(typed=TYPES, value=JSON)
def test_what_the_schema_allows_is_exactly_what_is_read(typed: Typed, value: Any) -> None:
    kind = kind_of(typed[0], "f(x)")

    try:
        kind.read(value, "x")
    except Unfit:
        fits = False
    else:
        fits = True

    assert jsonschema_rs.is_valid(kind.schema, value) == fits


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_may_hold_what_arguments_hold() -> None:
    result = {"place": Place(1.0, 2.0), "unit": Unit.CELSIUS, "level": Level.LOW, "pair": (1, "ö")}

    assert json.loads(dumps(result)) == {
        "place": {"lat": 1.0, "lon": 2.0, "tags": [], "kind": "city", "seen": False},
        "unit": "C",
        "level": 1,
        "pair": [1, "ö"],
    }


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({1, 2}, "a set has no JSON"),
        ({"at": datetime.min.replace(tzinfo=UTC)}, "a datetime has no JSON"),
        (Place, "a type has no JSON"),
        (float("nan"), "not JSON compliant"),
        ("\ud800", "half of a surrogate pair"),
        ({(1, 2): 3}, "keys must be str"),
    ],
    ids=str,
)
def test_a_result_that_is_no_json_is_said_so(result: Any, sentence: str) -> None:
    with pytest.raises(NotJson, match=sentence):
        dumps(result)


def test_a_result_that_holds_itself_is_no_json() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(NotJson, match="Circular"):
        dumps(endless)
