"""Arguments that a schema has already accepted, with their types."""

from __future__ import annotations

from pydantic import JsonValue

Arguments = dict[str, JsonValue]


def text(args: Arguments, name: str, default: str = "") -> str:
    """A string, or the default if it was left out."""
    value = args.get(name, default)
    assert isinstance(value, str)
    return value


def number(args: Arguments, name: str, default: int) -> int:
    """An integer; JSON Schema takes 2.0 for one too."""
    value = args.get(name, default)
    assert isinstance(value, int | float)
    return int(value)
