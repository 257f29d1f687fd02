"""Gateways that do not survive (DUR, APP-4)."""

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
from cmdc_gateway.store.store import AppendEvents, PutApproval, PutQuestion, PutRequest, PutTool
from cmdc_gateway.web.streaming import connections, websocket

from broken_gateways.mutant import breaks
from broken_gateways.surgery import Answer, after, change_answers, wrap


def _lose(lost: Any) -> None:
    """Leave writes out of transactions."""

    def around(original: Any) -> Any:
        def writes(self: Any, before: Any) -> list[Any]:
            return [write for write in original(self, before) if not lost(write)]

        return writes

    wrap(UnitOfWork, "writes", around)


@breaks("DUR-1.prompts", "DUR-2.queue")
def prompts_in_memory() -> None:
    """A prompt that waits is not stored before it is taken up."""
    _lose(lambda write: isinstance(write, PutRequest) and write.row.status == "queued")


@breaks("DUR-1.events", "EVT-7.identical")
def text_rewritten() -> None:
    """The text that is stored is not the text that readers have seen."""
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
    """What was decided is not stored."""
    _lose(lambda write: isinstance(write, PutApproval) and write.row.status != "pending")


@breaks("DUR-1.tools", "APP-4")
def tools_in_memory() -> None:
    """A tool that is registered is not stored."""
    _lose(lambda write: isinstance(write, PutTool))


@breaks("APP-4")
def questions_in_memory() -> None:
    """A question that waits cannot be answered after a restart."""
    _lose(lambda write: isinstance(write, PutQuestion) and write.row.status == "pending")


@breaks("DUR-2.waiting", "DUR-3.people", "APP-4")
def nothing_waits() -> None:
    """After a restart a run that waited for a person is ended."""
    wrap(recovery.RecoveredRun, "blocked_on_user", lambda _: property(lambda _: False))


@breaks("DUR-2.interrupted", "EVT-9.calls", "DUR-3.left")
def lost_in_silence() -> None:
    """After a restart a run that was interrupted is stopped without closing what it left open."""
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
    """After a restart the prompts that waited behind an interrupted run are forgotten."""

    def change(present: Any) -> Any:
        if present.active is not None:
            present.queue.clear()
        return present

    after(loader, "restore", change)


@breaks("DUR-3.refuses")
def deaf_to_the_signal() -> None:
    """After SIGTERM the server still takes prompts while a run comes to its end."""

    def around(original: Any) -> Any:
        async def drain(self: Any, *args: Any, **options: Any) -> None:
            draining = asyncio.create_task(original(self, *args, **options))
            await asyncio.sleep(0)
            self.services.draining = False
            await draining

        return drain

    wrap(Registry, "drain", around)


# Whoever is not there any more lets no run end, ends no stream as it should, and says nothing on WebSockets.
_GONE = ("DUR-3.refuses", "DUR-3.streams")


def _wrap_shutdown(shutdown: Any) -> None:
    """Put this before the end of the server: a function of the server."""

    def around(original: Any) -> Any:
        async def changed(self: Any, *args: Any, **options: Any) -> None:
            await shutdown(self)
            await original(self, *args, **options)

        return changed

    wrap(server.GatewayServer, "shutdown", around)


@breaks("DUR-3.exit", "DUR-3.streams")
def too_much_grace() -> None:
    """After SIGTERM the server gives its runs more time than it says."""

    async def more(self: Any) -> None:
        self._grace_seconds += 8

    _wrap_shutdown(more)


@breaks("DUR-3.exit", *_GONE)
def no_grace() -> None:
    """After SIGTERM the server ends its streams and exits at once, whatever runs."""

    async def none(self: Any) -> None:
        self._grace_seconds = 0

    _wrap_shutdown(none)


@breaks("DUR-3.exit", *_GONE, "DUR-3.websocket")
def falls_over() -> None:
    """At SIGTERM the server crashes."""

    async def crash(self: Any) -> None:
        os._exit(1)

    _wrap_shutdown(crash)


@breaks("DUR-3.streams")
def idle_to_the_end() -> None:
    """After SIGTERM the streams of idle sessions stay until all end."""

    def around(_: Any) -> Any:
        def drain(self: Any) -> None:
            self.draining = True

        return drain

    wrap(connections.Connections, "drain", around)


@breaks("DUR-3.people")
def waits_for_people_too() -> None:
    """After SIGTERM a run that waits for a person uses up the grace period."""
    wrap(Session, "delays_exit", lambda _: property(lambda self: self.snapshot.active is not None))


@breaks("DUR-3.left")
def aborted_at_the_end() -> None:
    """A run that is open at the end of the grace period is aborted, as if somebody had wished so."""

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
    """When the server stops it closes its WebSockets with 1001."""
    wrap(websocket, "RESTARTING", lambda _: 1001)


@breaks("DUR-4", "HTTP-1.fields")
def indestructible() -> None:
    """The durability that is named is none that the protocol knows."""

    def change(answer: Answer) -> None:
        if answer.status == 200:
            answer.body["durability"] = "forever"

    change_answers("/v1/capabilities", change)
