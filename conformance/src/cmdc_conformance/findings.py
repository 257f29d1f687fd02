"""What can come out of a check, and how checks say so.

A check that finds its requirement broken raises `Failed`. Whatever else goes wrong on the way to it raises `Blocked`:
that is another requirement's failure, and this one was not exercised. So a gateway that is broken in one way fails in
one place.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["PASS", "FAIL", "WARN", "NOT_APPLICABLE", "NOT_EXERCISED", "HARNESS_ERROR", "KNOWN"]


class Failed(AssertionError):
    """The requirement is broken. `requirement` names another one than the check's, where that is what was seen."""

    def __init__(self, message: str, requirement: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.requirement = requirement


class Blocked(Exception):
    """The check did not come to its point: what it needs first did not work."""


class Unreadable(Blocked):
    """The client made nothing of what came. What is wrong with that, the faces without a client say, each at its place."""


class NotExercised(Exception):
    """The check cannot be made here: the target does not say how, or the driver cannot provoke it."""


class NotApplicable(Exception):
    """The server does not do this, and says so."""


@dataclass(frozen=True, slots=True)
class Face:
    """How a scenario is driven: by whom, and over which transport. `-` where it makes no difference."""

    via: Literal["raw", "sdk"] = "raw"
    transport: Literal["sse", "ws", "-"] = "-"

    def __str__(self) -> str:
        return self.via if self.transport == "-" else f"{self.via}/{self.transport}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check said on one face. `evidence` are the exchanges that led to it, with secrets blacked out."""

    requirement: str
    check: str
    face: str
    status: Literal["PASS", "FAIL", "NOT_APPLICABLE", "NOT_EXERCISED", "HARNESS_ERROR"]
    message: str = ""
    seconds: float = 0.0
    evidence: tuple[str, ...] = field(default=())


def expect(condition: object, message: str) -> None:
    """The requirement holds only if this does."""
    if not condition:
        raise Failed(message)


def need(condition: object, message: str) -> None:
    """The check makes sense only if this holds."""
    if not condition:
        raise Blocked(message)


@contextmanager
def owed(promise: str = "") -> Generator[None]:
    """What does not work in here is what the requirement promises, unless the client fell over something else."""
    try:
        yield
    except Unreadable:
        raise
    except Blocked as blocked:
        raise Failed(f"{promise}: {blocked}" if promise else str(blocked)) from None
