"""The options that a session may pass to its model (`providerOpts`, PROTOCOL §3.2): an allow-list with types and ranges.

Addresses and credentials are not on it, nor is anything that changes how many answers come or what they cost per token:
those are the operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from cmdc_gateway.errors import BadRequest, CreateFailed


class UnknownOption(CreateFailed):
    """This provider option is not offered."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the provider option {name!r} is not offered (addresses and credentials are set by the operator); "
            f"offered: {', '.join(sorted(OPTIONS))}"
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class Option:
    """What an option may be: in words, and as a question about a value."""

    expected: str
    allows: Callable[[JsonValue], bool]


def check_options(options: Mapping[str, JsonValue]) -> None:
    """Refuse options that are not offered or that are not what they should be.

    Raises:
        UnknownOption: an option is not on the list.
        BadRequest: an option's value has the wrong type or is out of its range.
    """
    for name, value in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise UnknownOption(name)
        if not option.allows(value):
            path = f"providerOpts.{name}"
            raise BadRequest(f"{path} must be {option.expected}", [(path, f"must be {option.expected}")])


def _number(low: float, high: float) -> Option:
    def allows(value: JsonValue) -> bool:
        # NaN is not within any bounds.
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    return Option(f"a number from {low:g} to {high:g}", allows)


def _integer(low: int, high: int) -> Option:
    def allows(value: JsonValue) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Option(f"an integer from {low} to {high}", allows)


def _word(*words: str) -> Option:
    return Option(f"one of {', '.join(words)}", lambda value: value in words)


def _text(longest: int) -> Option:
    return Option(f"a string of 1 to {longest} characters", lambda value: _is_text(value, longest))


def _is_text(value: JsonValue, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest


def _is_stop(value: JsonValue) -> bool:
    texts = value if isinstance(value, list) else [value]
    return 1 <= len(texts) <= 4 and all(_is_text(text, 256) for text in texts)


def _is_tool_choice(value: JsonValue) -> bool:
    match value:
        case "auto" | "none" | "required":
            return True
        case {"type": "function", "function": {"name": str(name), **none}, **nothing}:
            return bool(name) and not none and not nothing
        case _:
            return False


def _is_response_format(value: JsonValue) -> bool:
    match value:
        case {"type": "text" | "json_object", **nothing}:
            return not nothing
        case {"type": "json_schema", "json_schema": {"name": str(), "schema": dict()}, **nothing}:
            return not nothing
        case _:
            return False


OPTIONS: Mapping[str, Option] = {
    "frequency_penalty": _number(-2, 2),
    "parallel_tool_calls": Option("true or false", lambda value: isinstance(value, bool)),
    "presence_penalty": _number(-2, 2),
    "reasoning_effort": _word("none", "minimal", "low", "medium", "high", "xhigh"),
    "response_format": Option(
        'an object with the type "text", "json_object" or "json_schema" (and then json_schema: {name, schema})',
        _is_response_format,
    ),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": Option("a string or 1 to 4 strings, of 1 to 256 characters each", _is_stop),
    "temperature": _number(0, 2),
    "tool_choice": Option(
        '"auto", "none", "required" or {"type": "function", "function": {"name": a tool}}', _is_tool_choice
    ),
    "top_k": _integer(1, 1_000_000),
    "top_p": _number(0, 1),
    "user": _text(256),
    "verbosity": _word("low", "medium", "high"),
}
