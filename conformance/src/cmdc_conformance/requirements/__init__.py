"""The requirements of the protocol, as data: one for each way in which a server can be wrong.

There is one TOML file for each version of the protocol.
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

# The areas that a profile covers. `base` covers only the requirements of the base layer in its areas.
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
    """One requirement.

    It applies only to servers that declare `feature`, if that is set. `driver` is the only model driver with which it can
    be observed; `unobservable` is the reason why it cannot be observed from outside.
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

    def unobservable_with(self, driver: str) -> str | None:
        """The reason why it cannot be observed with this model driver; None if it can."""
        if self.unobservable is None and self.driver not in (None, driver):
            return f"can only be observed with the driver {self.driver!r}"
        return self.unobservable

    def is_in(self, *profiles: Profile) -> bool:
        """Whether one of these profiles covers it."""
        return any(self.area in _AREAS[each] and (each != "base" or self.layer == "base") for each in profiles)


@cache
def requirements(protocol: str = "0.1") -> Mapping[str, Requirement]:
    """The requirements of a version of the protocol by id, in the order of the file."""
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
