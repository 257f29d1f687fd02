"""The options that a session can pass to its model in `providerOpts`: an allow-list with types and ranges.

It excludes addresses and credentials, and everything that changes the number of completions or the price of a token.
Only the operator sets those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from cmdc_gateway.errors import BadRequest, CreateFailed


class UnknownOption(CreateFailed):
    """A provider option is not on the list."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"unknown provider option {name!r} (only the operator can set addresses and credentials); "
            f"available options: {', '.join(sorted(OPTIONS))}"
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class Option:
    """The values that an option accepts, as a phrase for messages and as a predicate."""

    expected: str
    allows: Callable[[JsonValue], bool]


def check_options(options: Mapping[str, JsonValue]) -> None:
    """Validate the names and the values of options.

    Raises:
        UnknownOption: an option is not on the list.
        BadRequest: a value has the wrong type or is out of range.
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
        # False for NaN, as every comparison with it is.
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    return Option(f"a number from {low:g} to {high:g}", allows)


def _integer(low: int, high: int) -> Option:
    def allows(value: JsonValue) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Option(f"an integer from {low} to {high}", allows)


def _choice(*choices: str) -> Option:
    return Option(f"one of {', '.join(choices)}", lambda value: value in choices)


def _string(max_length: int) -> Option:
    return Option(f"a string of 1 to {max_length} characters", lambda value: _is_string(value, max_length))


def _is_string(value: JsonValue, max_length: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= max_length


def _is_stop(value: JsonValue) -> bool:
    sequences = value if isinstance(value, list) else [value]
    return 1 <= len(sequences) <= 4 and all(_is_string(sequence, 256) for sequence in sequences)


def _is_tool_choice(value: JsonValue) -> bool:
    match value:
        case "auto" | "none" | "required":
            return True
        case {"type": "function", "function": {"name": str(name), **extra}, **more}:
            return bool(name) and not extra and not more
        case _:
            return False


def _is_response_format(value: JsonValue) -> bool:
    match value:
        case {"type": "text" | "json_object", **extra}:
            return not extra
        case {"type": "json_schema", "json_schema": {"name": str(), "schema": dict()}, **extra}:
            return not extra
        case _:
            return False


OPTIONS: Mapping[str, Option] = {
    "frequency_penalty": _number(-2, 2),
    "parallel_tool_calls": Option("true or false", lambda value: isinstance(value, bool)),
    "presence_penalty": _number(-2, 2),
    "reasoning_effort": _choice("none", "minimal", "low", "medium", "high", "xhigh"),
    "response_format": Option(
        'an object whose type is "text", "json_object", or "json_schema" with json_schema: {name, schema}',
        _is_response_format,
    ),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": Option("a string or 1 to 4 strings, of 1 to 256 characters each", _is_stop),
    "temperature": _number(0, 2),
    "tool_choice": Option(
        '"auto", "none", "required" or {"type": "function", "function": {"name": "<tool>"}}', _is_tool_choice
    ),
    "top_k": _integer(1, 1_000_000),
    "top_p": _number(0, 1),
    "user": _string(256),
    "verbosity": _choice("low", "medium", "high"),
}
