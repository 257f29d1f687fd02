"""The registry of checks: which function tests which requirement, in which variants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.findings import Variant
from cmdc_conformance.requirements import requirements

CheckFunction = Callable[[CheckContext], Awaitable[None]]

Schedule = Literal["parallel", "slow", "exclusive"]

RAW_HTTP: Final = (Variant("raw", "-"),)
RAW_AND_SDK: Final = (Variant("raw", "-"), Variant("sdk", "-"))
RAW_SSE: Final = (Variant("raw", "sse"),)
RAW_WS: Final = (Variant("raw", "ws"),)
RAW_STREAMS: Final = (Variant("raw", "sse"), Variant("raw", "ws"))
ALL_VARIANTS: Final = (Variant("raw", "sse"), Variant("raw", "ws"), Variant("sdk", "sse"), Variant("sdk", "ws"))


@dataclass(frozen=True, slots=True)
class Check:
    """One way to test one requirement.

    `schedule` says what may run beside it: a limited number of parallel checks, a slow check in addition to them because
    it mostly waits, or nothing at all for an exclusive one, which disturbs the server.
    """

    requirement: str
    name: str
    run: CheckFunction
    variants: tuple[Variant, ...]
    schedule: Schedule

    @property
    def sentence(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or self.name.replace("_", " ")).strip().splitlines()[0]


_CHECKS: Final[dict[tuple[str, str], Check]] = {}


def check(
    requirement: str, *, variants: Iterable[Variant] = RAW_HTTP, schedule: Schedule = "parallel"
) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated function as a check of a requirement."""

    def register(run: CheckFunction) -> CheckFunction:
        add(requirement, run.__name__, run, variants=variants, schedule=schedule)
        return run

    return register


def add(
    requirement: str,
    name: str,
    run: CheckFunction,
    *,
    variants: Iterable[Variant] = RAW_HTTP,
    schedule: Schedule = "parallel",
) -> None:
    """Register a check. Raises ValueError for an unknown requirement or a duplicate name."""
    if requirement not in requirements():
        raise ValueError(f"check {name}: unknown requirement {requirement}")
    if (requirement, name) in _CHECKS:
        raise ValueError(f"duplicate check {name} of {requirement}")
    _CHECKS[requirement, name] = Check(requirement, name, run, tuple(variants), schedule)


def registered() -> Mapping[tuple[str, str], Check]:
    """The checks registered so far. `catalog.checks` returns all of them."""
    return _CHECKS
