"""What a suite run covers, and the requirements that this selects."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from cmdc_conformance.requirements import PROFILES, Profile, Requirement, requirements
from cmdc_conformance.target import TargetError

Via = Literal["raw", "sdk", "both"]
TransportOption = Literal["sse", "ws", "both"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a suite run covers.

    `profile` is one profile, or several separated by commas. `only` restricts the run to requirements or rules. `via`
    defaults to "both" if the Python client is installed. `replay` is a parsed replay file, executed instead of all
    checks. `probe` is whether to verify first that the target is a gateway.
    """

    profile: str = "core"
    via: Via | None = None
    transport: TransportOption = "both"
    only: tuple[str, ...] = ()
    seed: int = 0
    examples: int = 10
    baseline: dict[str, str] = field(default_factory=dict[str, str])
    replay: Mapping[str, Any] | None = None
    probe: bool = True

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profiles. Raises TargetError for an unknown one."""
        names = self.profile.split(",")
        for name in names:
            if name not in PROFILES:
                raise TargetError(f"unknown profile {name!r}; known are {', '.join(PROFILES)}")
        return cast("tuple[Profile, ...]", tuple(names))

    def requirements(self) -> list[Requirement]:
        """The requirements of the profiles, restricted to `only`. Raises TargetError."""
        profiles = self.profiles
        return [
            each
            for each in requirements().values()
            if each.is_in(*profiles) and (not self.only or each.id in self.only or each.rule in self.only)
        ]

    def resolved_via(self) -> Via:
        """How to drive the server. Raises TargetError if this needs the Python client and it is not installed."""
        if self.via in ("sdk", "both") and not client_is_installed():
            raise TargetError(f"--via {self.via} needs the Python client: install cmdc-client beside cmdc-conformance")
        return self.via or ("both" if client_is_installed() else "raw")


def client_is_installed() -> bool:
    """Whether checks can be driven through the Python client."""
    return importlib.util.find_spec("cmdc_client") is not None
