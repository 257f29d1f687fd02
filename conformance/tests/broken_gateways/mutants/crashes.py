"""Mutants that lose state in crashes or mishandle shutdown (DUR, APP-4)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

from cmdc_gateway import server
from cmdc_gateway.kernel import recovery
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.sessions import actor, loader, unit_of_work
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.writes import AppendEvents, PutApproval, PutQuestion, PutRequest, PutTool
from cmdc_gateway.web.streaming import connections, websocket

from broken_gateways.mutant import breaks
from broken_gateways.patching import Response, after, change_responses, wrap


def _lose(lost: Any) -> None:
    """Omit writes from transactions."""

    def around(original: Any) -> Any:
        def writes(self: Any, before: Any) -> list[Any]:
            return [write for write in original(self, before) if not lost(write)]

        return writes

    wrap(UnitOfWork, "writes", around)


@breaks("DUR-1.prompts", "DUR-2.queue")
def prompts_in_memory() -> None:
    """Queued prompts are not stored."""
    _lose(lambda write: isinstance(write, PutRequest) and write.row.status == "queued")


@breaks("DUR-1.events", "EVT-7.identical")
def text_rewritten() -> None:
    """The stored text differs from what readers received."""
    for owner in (actor, unit_of_work):
        after(owner, "AppendEvents", _rewritten)


def _rewritten(write: AppendEvents) -> AppendEvents:
    events = [
        replace(event, data=event.data.replace(b'"delta":"', b'"delta":"~')) if event.name == "message_delta" else event
        for event in write.events
    ]
    return AppendEvents(write.key, tuple(events))


@breaks("DUR-1.decisions", "APP-2.same", "APP-2.other", "APP-2.expired", "APP-2.cancelled")
def decisions_in_memory() -> None:
    """Decisions are not stored."""
    _lose(lambda write: isinstance(write, PutApproval) and write.row.status != "pending")


@breaks("DUR-1.tools", "APP-4")
def tools_in_memory() -> None:
    """Registered tools are not stored."""
    _lose(lambda write: isinstance(write, PutTool))


@breaks("APP-4")
def questions_in_memory() -> None:
    """A pending question cannot be answered after a restart."""
    _lose(lambda write: isinstance(write, PutQuestion) and write.row.status == "pending")


@breaks("DUR-2.waiting", "DUR-3.people", "APP-4")
def waiting_runs_end_at_restart() -> None:
    """A run that waits for a person ends at a restart."""
    wrap(recovery.RecoveredRun, "blocked_on_user", lambda _: property(lambda _: False))


@breaks("DUR-2.interrupted", "EVT-9.calls", "DUR-3.left")
def interrupted_without_closing_calls() -> None:
    """A run that was interrupted ends at the restart without closing its open calls."""
    from cmdc_gateway.kernel.effects import Outcome

    def around(original: Any) -> Any:
        def left_open(self: Any, sentence: str) -> Any:
            if "interrupted" in sentence:
                self._open.clear()
                self._ready.clear()
                return Outcome()
            return original(self, sentence)

        return left_open

    wrap(Turn, "_close_open_calls", around)


@breaks("DUR-2.queue", "DUR-1.prompts")
def queue_forgotten() -> None:
    """Prompts that were queued behind an interrupted run are lost."""

    def change(present: Any) -> Any:
        if present.active is not None:
            present.queue.clear()
        return present

    after(loader, "restore", change)


@breaks("DUR-3.refuses")
def accepts_prompts_after_sigterm() -> None:
    """After SIGTERM, prompts are accepted while a run finishes."""

    def around(original: Any) -> Any:
        async def drain(self: Any, *args: Any, **options: Any) -> None:
            draining = asyncio.create_task(original(self, *args, **options))
            await asyncio.sleep(0)
            self.services.draining = False
            await draining

        return drain

    wrap(Registry, "drain", around)


# A server that is gone lets no run finish, ends no stream cleanly, and sends no close code.
_GONE = ("DUR-3.refuses", "DUR-3.streams")


def _wrap_shutdown(shutdown: Any) -> None:
    """Wrap the server's shutdown."""

    def around(original: Any) -> Any:
        async def changed(self: Any, *args: Any, **options: Any) -> None:
            await shutdown(self)
            await original(self, *args, **options)

        return changed

    wrap(server.GatewayServer, "shutdown", around)


@breaks("DUR-3.exit", "DUR-3.streams")
def too_much_grace() -> None:
    """After SIGTERM, runs get more time than the grace period."""

    async def more(self: Any) -> None:
        self._grace_seconds += 8

    _wrap_shutdown(more)


@breaks("DUR-3.exit", *_GONE)
def no_grace() -> None:
    """After SIGTERM, the server exits immediately, even during a run."""

    async def none(self: Any) -> None:
        self._grace_seconds = 0

    _wrap_shutdown(none)


@breaks("DUR-3.exit", *_GONE, "DUR-3.websocket")
def crashes_at_sigterm() -> None:
    """At SIGTERM, the server crashes."""

    async def crash(self: Any) -> None:
        os._exit(1)

    _wrap_shutdown(crash)


@breaks("DUR-3.streams")
def idle_streams_stay_open() -> None:
    """After SIGTERM, streams of idle sessions stay open until the server exits."""

    def around(_: Any) -> Any:
        def drain(self: Any) -> None:
            self.draining = True

        return drain

    wrap(connections.Connections, "drain", around)


@breaks("DUR-3.people")
def waiting_runs_delay_the_exit() -> None:
    """After SIGTERM, a run that waits for a person uses up the grace period."""
    wrap(Session, "delays_exit", lambda _: property(lambda self: self.snapshot.active is not None))


@breaks("DUR-3.left")
def aborted_at_shutdown() -> None:
    """A run that is open at the end of the grace period is aborted instead of interrupted."""

    def around(original: Any) -> Any:
        async def drain(self: Any, *args: Any, **options: Any) -> None:
            await original(self, *args, **options)
            for session in [*self._sessions.values()]:
                if session.delays_exit:
                    await session.commands.abort("nobody")

        return drain

    wrap(Registry, "drain", around)


@breaks("DUR-3.websocket")
def going_away() -> None:
    """At shutdown, WebSockets are closed with 1001."""
    wrap(websocket, "RESTARTING", lambda _: 1001)


@breaks("DUR-4", "HTTP-1.fields")
def unknown_durability() -> None:
    """The declared durability is not one of the protocol's."""

    def change(response: Response) -> None:
        if response.status == 200:
            response.body["durability"] = "forever"

    change_responses("/v1/capabilities", change)
