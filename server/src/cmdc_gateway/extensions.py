"""Extensions found through entry points: stores, model providers and tools that installed packages add."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal

Group = Literal["cmdc_gateway.stores", "cmdc_gateway.providers", "cmdc_gateway.tools"]

GROUPS: Final[tuple[Group, ...]] = ("cmdc_gateway.stores", "cmdc_gateway.providers", "cmdc_gateway.tools")


class DuplicateExtension(ValueError):
    """Two installed packages register the same name, so neither may silently replace the other."""

    def __init__(self, group: str, name: str, packages: list[str]) -> None:
        super().__init__(f"{group}: {name!r} is registered by {' and '.join(packages)}; uninstall one of them")


def names(group: Group) -> tuple[str, ...]:
    """The names that installed packages register in this group, sorted. Raises DuplicateExtension."""
    return tuple(sorted(_entries(group)))


def load(group: Group, name: str) -> Any | None:
    """The object registered under a name, imported now; None if no package registers it. Raises DuplicateExtension."""
    entry = _entries(group).get(name)
    return entry.load() if entry is not None else None


@cache
def _entries(group: Group) -> dict[str, EntryPoint]:
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = entries.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise DuplicateExtension(group, entry.name, sorted({_package(other), _package(entry)}))
    return entries


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
