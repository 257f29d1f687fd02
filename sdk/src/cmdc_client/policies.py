"""Who decides about tool calls, and who answers questions, while a run is read."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from cmdc_client.events import ApprovalRequired, AskUser

Policy = Literal["approve", "reject", "ask"] | Callable[[ApprovalRequired], bool]
"""What becomes of a tool call that needs a person: always the same, asked at the terminal, or what a function says."""

AsyncPolicy = Policy | Callable[[ApprovalRequired], Awaitable[bool]]
"""As `Policy`; the function may be async too."""

Answerer = Literal["ask"] | Callable[[AskUser], str]
"""Who answers the agent's questions: a function, or whoever sits at the terminal."""

AsyncAnswerer = Answerer | Callable[[AskUser], Awaitable[str]]
"""As `Answerer`; the function may be async too."""


class Decider(Protocol):
    """What carries decisions to the server: a session, or a WebSocket."""

    def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> object: ...
    def reject(self, approval_id: str, *, reason: str | None = None) -> object: ...
    def respond(self, ref: str, response: str) -> object: ...


class AsyncDecider(Protocol):
    """As `Decider`, async."""

    async def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> object: ...
    async def reject(self, approval_id: str, *, reason: str | None = None) -> object: ...
    async def respond(self, ref: str, response: str) -> object: ...


def decide(policy: Policy, event: ApprovalRequired) -> bool:
    """Whether the policy lets the call run."""
    if callable(policy):
        return policy(event)
    return _is_yes(input(_asking(event))) if policy == "ask" else policy == "approve"


async def async_decide(policy: AsyncPolicy, event: ApprovalRequired) -> bool:
    """Whether the policy lets the call run."""
    if callable(policy):
        verdict = policy(event)
        return await verdict if inspect.isawaitable(verdict) else verdict
    return _is_yes(await _typed(_asking(event))) if policy == "ask" else policy == "approve"


def reply_to(answerer: Answerer, event: AskUser) -> str:
    """The answer to the question."""
    return answerer(event) if callable(answerer) else input(_question(event))


async def async_reply_to(answerer: AsyncAnswerer, event: AskUser) -> str:
    """The answer to the question."""
    if callable(answerer):
        answer = answerer(event)
        return await answer if inspect.isawaitable(answer) else answer
    return await _typed(_question(event))


def _asking(event: ApprovalRequired) -> str:
    return f"\n{event.hint or event.tool_name}\nLet this run? [y/N] "


def _question(event: AskUser) -> str:
    options = "".join(f"\n  - {option}" for option in event.options or ())
    return f"\n{event.question}{options}\n> "


def _is_yes(line: str) -> bool:
    return line.strip().lower() in ("y", "yes")


async def _typed(prompt: str) -> str:
    """A line from the terminal, without holding up the event loop.

    It is waited for in a daemon thread, for nothing can take back a read from a terminal: one from the loop's pool would
    keep a cancelled program from ending until somebody presses Enter.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(typed: str | Exception) -> None:
        if line.done():  # cancelled meanwhile
            return
        if isinstance(typed, str):
            line.set_result(typed)
        else:
            line.set_exception(typed)

    def read() -> None:
        try:
            typed: str | Exception = input(prompt)
        except (EOFError, OSError, ValueError) as failure:
            typed = failure
        with suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(settle, typed)

    threading.Thread(target=read, name="cmdc-terminal", daemon=True).start()
    return await line
