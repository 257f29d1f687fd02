"""What a check can find, and the exceptions that it reports it with.

A check raises `Failed` if the server violates the requirement that the check is for. Anything else that goes wrong before
that point raises `Blocked`: it is a failure of another requirement, and this one was not exercised. A server with one
fault therefore fails one requirement.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

Status = Literal["PASS", "FAIL", "WARN", "NOT_APPLICABLE", "NOT_EXERCISED", "HARNESS_ERROR", "KNOWN"]

STREAM_VARIANTS: Final = ("raw/sse", "raw/ws", "sdk/sse", "sdk/ws")


class Failed(AssertionError):
    """The server violates a requirement: the check's own, or the one that `requirement` names."""

    def __init__(self, message: str, requirement: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.requirement = requirement


class Blocked(Exception):
    """A precondition of the check does not hold, so its requirement was not exercised."""


class Unreadable(Blocked):
    """The Python client could not parse what it received. The raw variants report the cause under its own requirement."""


class NotExercised(Exception):
    """The check cannot run here: the target file lacks something, or the model driver cannot provoke the situation."""


class NotApplicable(Exception):
    """The server does not implement this optional behavior, and declares so."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How a check drives the server: with raw requests or the Python client, over which transport ("-" if either)."""

    via: Literal["raw", "sdk"] = "raw"
    transport: Literal["sse", "ws", "-"] = "-"

    def __str__(self) -> str:
        return self.via if self.transport == "-" else f"{self.via}/{self.transport}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check in one variant. `evidence` holds the exchanges that led to it, with secrets redacted."""

    requirement: str
    check: str
    variant: str
    status: Literal["PASS", "FAIL", "NOT_APPLICABLE", "NOT_EXERCISED", "HARNESS_ERROR"]
    message: str = ""
    seconds: float = 0.0
    evidence: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Violation:
    """A requirement that a monitor saw violated, and the check that was running at the time."""

    requirement: str
    message: str
    check: str
    evidence: tuple[str, ...] = ()


def expect(condition: object, message: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(message)


def require(condition: object, message: str) -> None:
    """Raise Blocked unless this precondition holds."""
    if not condition:
        raise Blocked(message)


@contextmanager
def fails_if_blocked(when: str = "") -> Generator[None]:
    """Turn Blocked into Failed: inside this block, every step is part of what the requirement promises.

    `Unreadable` passes through, because it says nothing about this requirement.
    """
    try:
        yield
    except Unreadable:
        raise
    except Blocked as blocked:
        raise Failed(f"{when}: {blocked}" if when else str(blocked)) from None
