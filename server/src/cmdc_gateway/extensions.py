"""Extensions found through entry points: stores, model providers and tools that installed packages add."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal

Group = Literal["cmdc_gateway.stores", "cmdc_gateway.providers", "cmdc_gateway.tools"]

GROUPS: Final[tuple[Group, ...]] = ("cmdc_gateway.stores", "cmdc_gateway.providers", "cmdc_gateway.tools")


def names(group: Group) -> tuple[str, ...]:
    """The names that installed packages register in this group, sorted."""
    return tuple(sorted(_entries(group)))


def load(group: Group, name: str) -> Any | None:
    """The object registered under a name, imported now; None if no package registers it."""
    entry = _entries(group).get(name)
    return entry.load() if entry is not None else None


@cache
def _entries(group: Group) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
