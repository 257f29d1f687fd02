"""Simulated users: some prompt, some decide, some read, and all of them retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from cmdc_gateway.errors import GatewayError, SessionNotFound, Unavailable
from cmdc_gateway.protocol.decisions import ApproveBody, RejectBody, RespondBody
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.sessions import AbortBody, PromptBody
from cmdc_gateway.protocol.tools import RegisterToolBody
from cmdc_gateway.sessions.idempotency import StoredResponse
from cmdc_gateway.sessions.log import Trimmed
from cmdc_gateway.store.store import SessionKey, StoreUnavailable
from cmdc_gateway.web.actions import Actions

from cmdc_testkit.audit import Frame
from cmdc_testkit.simulation.judge import body
from cmdc_testkit.simulation.place import CALLER, Gone, Incarnation, Place

_SECRET = "whsec_" + "c2VjcmV0" * 5
_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}


def registration(name: str, guarded: bool) -> RegisterToolBody:
    """The registration of a simulated tool."""
    return RegisterToolBody.model_validate(
        {
            "name": name,
            "description": "",
            "parameters": _PARAMETERS,
            "callbackUrl": "https://tool.example/",
            "timeoutMs": 9_000,
            "requiresApproval": guarded,
            "secret": _SECRET,
        }
    )


class Person:
    """A user who prompts, or decides. At most one user per session prompts, so that the order is defined."""

    def __init__(self, place: Place, key: SessionKey, number: int) -> None:
        self.stopped = False
        self._place = place
        self._key = key
        self._chance = place.chance_for(f"person {key.session_id}", number)
        self._name = f"{key.session_id}-{number}"
        self._sent = 0

    async def live(self, *, prompts: bool) -> None:
        while not self.stopped:
            await asyncio.sleep(self._chance.choice((0, 0.01, 0.5, 3)))
            if prompts:
                await self._prompt()
            else:
                await self._meddle()

    async def nothing_left(self) -> bool:
        """Resolve what is pending; return whether the session has finished."""
        stored = await self._place.disk.load(self._key)
        if stored is None or all(request.status == "done" for request in stored.requests):
            return True
        for approval in stored.approvals:
            await self._decide(approval.approval_id)
        for question in stored.questions:
            await self._respond(question.ref)
        return False

    async def _meddle(self) -> None:
        stored = await self._place.disk.load(self._key)
        if stored is None:
            return
        chance = self._chance
        match chance.randrange(12):
            case 0:
                await self._once(
                    "abort", lambda now, key: now.abort(CALLER, self._key, AbortBody.model_validate({}), key)
                )
            case 1:
                tool = registration(chance.choice(("count", "spare", "guarded")), chance.random() < 0.5)
                await self._once("tools", lambda now, key: now.register(CALLER, self._key, tool, key))
            case 2:
                gateway = self._place.gateway
                await self._try(gateway, self._remove("spare", gateway))
            case 3:
                await self._mistake([approval.approval_id for approval in stored.approvals])
            case _:
                for approval in stored.approvals:
                    await self._decide(approval.approval_id)
                for question in stored.questions:
                    await self._respond(question.ref)

    async def _mistake(self, waiting: list[str]) -> None:
        """Send invalid decisions, which must have no effect."""
        wrong: dict[str, Any] = self._chance.choice(({"digest": "0" * 64}, {"args": {"n": "no number"}}))
        for approval_id in [*waiting, "apr_of_nothing"]:
            sent = ApproveBody.model_validate({"approvalId": approval_id, **wrong})
            given = await self._once("approve", lambda now, key, sent=sent: now.approve(CALLER, self._key, sent, key))
            if given is not None:
                self._place.judge.found(f"APP-3: {approval_id} was approved with {wrong}")

    async def _prompt(self) -> None:
        given = await self._once("prompt", lambda now, key: now.prompt(CALLER, self._key, PromptBody(text="go"), key))
        if given is not None:
            await self._place.judge.accepted(self._key, body(given.body)["requestId"], again=given.replayed)

    async def _decide(self, approval_id: str) -> None:
        chance = self._chance
        if chance.random() < 0.5:
            edited = {"args": {"n": chance.randrange(9)}} if chance.random() < 0.3 else {}
            sent = ApproveBody.model_validate({"approvalId": approval_id, **edited})
            given = await self._once("approve", lambda now, key: now.approve(CALLER, self._key, sent, key))
            status = "approved"
        else:
            reject = RejectBody.model_validate({"approvalId": approval_id})
            given = await self._once("reject", lambda now, key: now.reject(CALLER, self._key, reject, key))
            status = "rejected"
        if given is not None:
            self._place.judge.decided(self._key.session_id, approval_id, status)

    async def _respond(self, ref: str) -> None:
        response = self._chance.choice(("left", "right", "elsewhere"))
        sent = RespondBody(ref=ref, response=response)
        given = await self._once("respond", lambda now, key: now.respond(CALLER, self._key, sent, key))
        if given is not None:
            answers = self._place.judge.promises[self._key.session_id].answers
            if answers.setdefault(ref, response) != response:
                self._place.judge.found(f"ASK-1: {ref} was answered twice")

    async def _once(
        self, what: str, act: Callable[[Actions, str], Coroutine[Any, Any, StoredResponse]]
    ) -> StoredResponse | None:
        """Retry a request under one Idempotency-Key until it is answered; None if it was rejected."""
        self._sent += 1
        name = f"{self._name}-{self._sent}-{what}"
        while True:
            gateway = self._place.gateway
            try:
                return await gateway.ask(act(gateway.actions, name), self._chance.choice((None, None, 0.1)))
            except (Gone, StoreUnavailable, Unavailable):
                pass
            except GatewayError as refusal:
                if refusal.code != "idempotency_in_progress":
                    return None
            await asyncio.sleep(self._chance.choice((0.01, 0.2, 1)))

    async def _try(self, gateway: Incarnation, request: Coroutine[Any, Any, object]) -> None:
        with suppress(Gone, StoreUnavailable, GatewayError):
            await gateway.ask(request)

    async def _remove(self, name: str, gateway: Incarnation) -> None:
        session = await gateway.registry.find(self._key)
        await session.commands.remove_tool(name, CALLER.key_id)


class Reading:
    """A reader that resumes after its last event whenever its connection is lost."""

    def __init__(self, place: Place, key: SessionKey, number: int) -> None:
        self._place = place
        self._key = key
        self._chance = place.chance_for(f"reader {key.session_id}", number)
        self._promised = place.judge.promises[key.session_id]
        self._after = 0
        self._begin(0)

    async def read(self) -> None:
        while self._key not in self._place.judge.deleted:
            gateway = self._place.gateway
            with suppress(Gone, StoreUnavailable, Unavailable, SessionNotFound):
                await gateway.ask(self._connection(gateway), self._chance.choice((0.1, 2, 30)), give_up=True)
            await asyncio.sleep(self._chance.choice((0.01, 0.3)))

    async def caught_up(self) -> None:
        while self._key not in self._place.judge.deleted and self._after < len(self._promised.frames):  # noqa: ASYNC110 - polling is free here
            await asyncio.sleep(0.1)

    async def _connection(self, gateway: Incarnation) -> None:
        log, session = await gateway.registry.log_of(self._key)
        reader = log.reader(max(self._after, log.first_seq - 1))
        if reader.seq > self._after:
            self._begin(reader.seq)  # like a client whose cursor has expired
        try:
            while not gateway.over.done():
                page = await reader.take()
                self._take(page)
                if session is not None and page and page[-1].terminal:
                    session.mark_delivered(page[-1].seq)
                if not page:
                    if log.closed:
                        return
                    await reader.wait()
        except Trimmed:
            if self._place.replay_events is None:
                self._place.judge.found("SSE-7: events are missing in the log")
        finally:
            reader.leave()

    def _begin(self, after: int) -> None:
        self._after = after
        self._frames: list[Frame] = []
        self._promised.seen.append(self._frames)

    def _take(self, page: list[LoggedEvent]) -> None:
        """Record a page; an abandoned connection may deliver events that were already received."""
        self._place.judge.shown(self._key.session_id, page)
        for event in page:
            if event.seq == self._after + 1:
                self._after = event.seq
                self._frames.append(Frame(str(event.cursor), event.name, event.data.decode()))
