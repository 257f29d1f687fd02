"""Checks, and which requirement each of them is for."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cmdc_conformance.case import Case
from cmdc_conformance.findings import Face
from cmdc_conformance.requirements import requirements

Run = Callable[[Case], Awaitable[None]]

When = Literal["any", "slow", "alone"]

ONCE: Final = (Face("raw", "-"),)
VIAS: Final = (Face("raw", "-"), Face("sdk", "-"))
SSE: Final = (Face("raw", "sse"),)
WS: Final = (Face("raw", "ws"),)
RAW: Final = (Face("raw", "sse"), Face("raw", "ws"))
EVERY: Final = (Face("raw", "sse"), Face("raw", "ws"), Face("sdk", "sse"), Face("sdk", "ws"))


@dataclass(frozen=True, slots=True)
class Check:
    """One way to judge one requirement.

    `when` is slow for what mostly waits (it runs beside all others), alone for what disturbs the others.
    """

    requirement: str
    name: str
    run: Run
    faces: tuple[Face, ...]
    when: When

    @property
    def sentence(self) -> str:
        """What it does, in its own words."""
        return (self.run.__doc__ or self.name.replace("_", " ")).strip().splitlines()[0]


_CHECKS: Final[dict[tuple[str, str], Check]] = {}


def check(requirement: str, *, faces: Iterable[Face] = ONCE, when: When = "any") -> Callable[[Run], Run]:
    """Register a function as a check of a requirement."""

    def register(run: Run) -> Run:
        add(requirement, run.__name__, run, faces=faces, when=when)
        return run

    return register


def add(requirement: str, name: str, run: Run, *, faces: Iterable[Face] = ONCE, when: When = "any") -> None:
    """Register a check. Raises ValueError for a requirement that there is not, or a name that is taken."""
    if requirement not in requirements():
        raise ValueError(f"the check {name} is for {requirement}, which is no requirement")
    if (requirement, name) in _CHECKS:
        raise ValueError(f"there is a check {name} of {requirement}")
    _CHECKS[requirement, name] = Check(requirement, name, run, tuple(faces), when)


def checks() -> Mapping[tuple[str, str], Check]:
    """Every check, once all scenarios are loaded."""
    importlib.import_module("cmdc_conformance.scenarios")  # they register themselves, and import this module

    return _CHECKS
