"""Policies, which decide about tool calls, and answerers, which answer questions, while a run is read."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from cmdc_client.events import ApprovalRequired, AskUser

Policy = Literal["approve", "reject", "ask"] | Callable[[ApprovalRequired], bool]
"""Decides about each tool call that needs approval: a fixed decision, a prompt at the terminal, or a function."""

AsyncPolicy = Policy | Callable[[ApprovalRequired], Awaitable[bool]]
"""Like `Policy`; the function may also be async."""

Answerer = Literal["ask"] | Callable[[AskUser], str]
"""Answers the agent's questions: a prompt at the terminal, or a function."""

AsyncAnswerer = Answerer | Callable[[AskUser], Awaitable[str]]
"""Like `Answerer`; the function may also be async."""


class DecisionSender(Protocol):
    """Sends decisions to the server: a session or a WebSocket."""

    def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> object: ...
    def reject(self, approval_id: str, *, reason: str | None = None) -> object: ...
    def respond(self, ref: str, response: str) -> object: ...


class AsyncDecisionSender(Protocol):
    """The async form of `DecisionSender`."""

    async def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> object: ...
    async def reject(self, approval_id: str, *, reason: str | None = None) -> object: ...
    async def respond(self, ref: str, response: str) -> object: ...


def decide(policy: Policy, event: ApprovalRequired) -> bool:
    """Return whether the policy approves the call."""
    if callable(policy):
        return policy(event)
    return _is_yes(input(_approval_prompt(event))) if policy == "ask" else policy == "approve"


async def async_decide(policy: AsyncPolicy, event: ApprovalRequired) -> bool:
    """Return whether the policy approves the call."""
    if callable(policy):
        decision = policy(event)
        return await decision if inspect.isawaitable(decision) else decision
    return _is_yes(await _async_input(_approval_prompt(event))) if policy == "ask" else policy == "approve"


def answer_to(answerer: Answerer, event: AskUser) -> str:
    """Return the answer to the question."""
    return answerer(event) if callable(answerer) else input(_question_prompt(event))


async def async_answer_to(answerer: AsyncAnswerer, event: AskUser) -> str:
    """Return the answer to the question."""
    if callable(answerer):
        answer = answerer(event)
        return await answer if inspect.isawaitable(answer) else answer
    return await _async_input(_question_prompt(event))


def _approval_prompt(event: ApprovalRequired) -> str:
    return f"\n{event.hint or event.tool_name}\nApprove? [y/N] "


def _question_prompt(event: AskUser) -> str:
    options = "".join(f"\n  - {option}" for option in event.options or ())
    return f"\n{event.question}{options}\n> "


def _is_yes(line: str) -> bool:
    return line.strip().lower() in ("y", "yes")


async def _async_input(prompt: str) -> str:
    """Read a line from the terminal without blocking the event loop.

    A read from the terminal cannot be cancelled. It runs in a daemon thread, because a thread of the loop's pool would
    keep a cancelled program alive until the user presses Enter.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def finish(result: str | Exception) -> None:
        if line.done():  # cancelled
            return
        if isinstance(result, str):
            line.set_result(result)
        else:
            line.set_exception(result)

    def read() -> None:
        try:
            result: str | Exception = input(prompt)
        except (EOFError, OSError, ValueError) as error:
            result = error
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(finish, result)

    threading.Thread(target=read, name="cmdc-terminal", daemon=True).start()
    return await line
