"""What the protocol demands, as data: one requirement for each thing that a server can get wrong.

The files beside this module hold them, one for each version of the protocol.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

Level = Literal["MUST", "SHOULD"]
Layer = Literal["base", "extended"]
Area = Literal["core", "interactive", "tools", "ws", "resume", "durable", "hardening"]
Profile = Literal["base", "core", "interactive", "tools", "ws", "resume", "durable", "hardening", "full"]

PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)

# The areas that a profile judges. `base` judges the base requirements of its areas alone.
_AREAS: Final[Mapping[Profile, frozenset[Area]]] = {
    "base": frozenset({"core", "interactive", "tools", "ws"}),
    "core": frozenset({"core"}),
    "interactive": frozenset({"core", "interactive"}),
    "tools": frozenset({"core", "tools"}),
    "ws": frozenset({"core", "ws"}),
    "resume": frozenset({"core", "resume"}),
    "durable": frozenset({"core", "resume", "durable"}),
    "hardening": frozenset({"core", "hardening"}),
    "full": frozenset(get_args(Area)),
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One demand. `feature` has to be declared by the server; `unobservable` says why nothing can be checked.

    `driver` is the one driver with which it can be seen, where there is only one.
    """

    id: str
    rule: str
    level: Level
    layer: Layer
    area: Area
    sentence: str
    link: str
    feature: str | None = None
    driver: str | None = None
    unobservable: str | None = None

    def hidden_from(self, driver: str) -> str | None:
        """Why it cannot be seen with this driver; None if it can."""
        if self.unobservable is None and self.driver not in (None, driver):
            return f"can only be seen with the driver {self.driver!r}"
        return self.unobservable

    def is_in(self, *profiles: Profile) -> bool:
        """Whether one of these profiles judges it."""
        return any(self.area in _AREAS[each] and (each != "base" or self.layer == "base") for each in profiles)


@cache
def requirements(protocol: str = "0.1") -> Mapping[str, Requirement]:
    """The requirements of this version, by their ids, in the order of the file."""
    name = f"v{protocol.replace('.', '_')}.toml"
    text = files("cmdc_conformance.requirements").joinpath(name).read_text(encoding="utf-8")
    return {each.id: each for rule in tomllib.loads(text)["rules"] for each in _parts(rule)}


def _parts(rule: Mapping[str, Any]) -> list[Requirement]:
    common = {"level": "MUST", "layer": "base", "profile": "core", **rule}
    return [_requirement({**common, **part}, rule["rule"], part["id"]) for part in rule["parts"]]


def _requirement(entry: Mapping[str, Any], rule: str, part: str) -> Requirement:
    return Requirement(
        id=f"{rule}.{part}" if part else rule,
        rule=rule,
        level=entry["level"],
        layer=entry["layer"],
        area=entry["profile"],
        sentence=entry["sentence"],
        link=f"API.md#{entry['link']}",
        feature=entry.get("feature"),
        driver=entry.get("driver"),
        unobservable=entry.get("unobservable"),
    )
