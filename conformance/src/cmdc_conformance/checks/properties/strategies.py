"""Hypothesis strategies: texts split anywhere, scripts, steps of a session, and requests with one error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from cmdc_conformance.checks.properties.reference_model import KINDS
from cmdc_conformance.drivers.script import Reply

# Any text that the protocol allows: no lone surrogates, no U+0000.
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00")
_TRICKY = st.sampled_from(
    ["\r", "\n", "\r\n", "\u2028", "\u2029", "\u0085", "\u200d", "\u0301", "\ufeff", "\U0001f469", "data: ", ":", " "]
)


def texts(least: int = 0) -> st.SearchStrategy[list[str]]:
    """A text as a list of non-empty pieces, split anywhere."""
    piece = st.lists(st.one_of(_TRICKY, st.text(_CHARACTERS, min_size=1, max_size=6)), min_size=1, max_size=3).map(
        "".join
    )
    return st.lists(piece, min_size=least, max_size=6)


@st.composite
def scripts(draw: st.DrawFn) -> list[Reply]:
    """Replies with reasoning, text and parallel calls. The last one succeeds, fails transiently or permanently, or is cut."""
    steps = [draw(_replies(calls=True)) for _ in range(draw(st.integers(0, 2)))]
    last = draw(_replies(calls=False))
    match draw(st.sampled_from(["succeed", "succeed", "fail once", "fail", "cut"])):
        case "fail once":
            last["fail"] = {"status": 503, "attempts": 1}
        case "fail":
            last["fail"] = {"status": 400, "attempts": 0}
        case "cut":
            last["cut"] = True
        case _:
            pass
    return [*steps, last]


@st.composite
def _replies(draw: st.DrawFn, *, calls: bool) -> Reply:
    made: Reply = {"text": draw(texts(0 if calls else 1)), "thinking": draw(texts())}
    if calls:
        name = st.sampled_from(["get_weather", "get_weather", "no_such_tool"])
        args = st.fixed_dictionaries({"city": st.sampled_from(["Oslo", "東京"])}, optional={"days": st.integers(0, 9)})
        wanted = st.fixed_dictionaries({"name": name, "args": args})
        made["toolCalls"] = draw(st.lists(wanted, min_size=1, max_size=3))
    # Not 0: many providers omit a count of 0, and a server may then estimate it.
    made["usage"] = draw(
        st.fixed_dictionaries({"promptTokens": st.integers(1, 1000), "completionTokens": st.integers(1, 1000)})
    )
    return made


def steps() -> Mapping[str, st.SearchStrategy[dict[str, Any]]]:
    """The strategies for the steps of a session, by operation."""
    session = st.integers(0, 3)

    def step(op: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"op": st.just(op), "session": session, **members})

    return {
        "create": st.fixed_dictionaries({"op": st.just("create"), "tenant": st.integers(0, 1)}),
        "prompt": step("prompt", kind=st.sampled_from(KINDS)),
        "decide": step("decide", action=st.sampled_from(["approve", "reject"])),
        "respond": step("respond", answer=st.sampled_from(["red", "blue", "green"])),
        "abort": step("abort"),
        "register": step("register"),
        "read": step("read", place=st.integers(0, 200), cut=st.integers(1, 4000)),
        "foreign": step("foreign"),
        "delete": step("delete"),
    }


# -- mutated requests --------------------------------------------------------------------------------------------------

_SHORT_TEXTS = st.text("abc", max_size=3)
_EMPTY_LIST: st.SearchStrategy[Any] = st.builds(list[Any])
_EMPTY_OBJECT: st.SearchStrategy[Any] = st.builds(dict[str, Any])
_WRONG_TYPES: Mapping[str, st.SearchStrategy[Any]] = {
    "string": st.one_of(st.integers(-5, 5), st.booleans(), st.none(), _EMPTY_LIST, _EMPTY_OBJECT),
    "integer": st.one_of(st.just("1"), st.booleans(), st.none(), st.just(1.5), _EMPTY_LIST, _EMPTY_OBJECT),
    "boolean": st.one_of(st.just("true"), st.just(0), st.just(1), st.none()),
    "array": st.one_of(st.just("x"), _EMPTY_OBJECT, st.just(1), st.none()),
    "object": st.one_of(_EMPTY_LIST, st.just("x"), st.just(1), st.none()),
}


@st.composite
def mutations(draw: st.DrawFn, schema: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """A body with one error: the kind of error, the field, and the body.

    `body` is valid according to the schema, which is taken from the published contract.
    """
    properties: Mapping[str, Any] = schema["properties"]
    required: list[str] = [name for name in schema.get("required", []) if name in body]
    kind = draw(st.sampled_from(["unknown", "type", *(["missing"] if required else [])]))
    if kind == "missing":
        name = draw(st.sampled_from(required))
        return "missing-field", name, {key: value for key, value in body.items() if key != name}
    if kind == "unknown":
        name = draw(
            st.text(st.sampled_from("abcdefgXYZ_"), min_size=3, max_size=12).filter(lambda each: each not in properties)
        )
        return "unknown-field", name, {**body, name: draw(st.one_of(st.none(), st.integers(-5, 5), _SHORT_TEXTS))}
    typed = [name for name, each in properties.items() if each.get("type") in _WRONG_TYPES]
    name = draw(st.sampled_from(sorted(typed)))
    return "wrong-type", name, {**body, name: draw(_WRONG_TYPES[properties[name]["type"]])}
