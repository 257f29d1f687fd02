"""Typed access to arguments that match the schema."""

from __future__ import annotations

from pydantic import JsonValue

Arguments = dict[str, JsonValue]


def string(args: Arguments, name: str, default: str = "") -> str:
    """A string, or the default if it is missing."""
    value = args.get(name, default)
    assert isinstance(value, str)
    return value


def integer(args: Arguments, name: str, default: int) -> int:
    """An integer, or the default if it is missing. In JSON Schema, 2.0 is an integer too."""
    value = args.get(name, default)
    assert isinstance(value, int | float)
    return int(value)
