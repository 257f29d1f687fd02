"""Simulated clients of a session: some prompt, some decide, some read, and all of them retry."""

from __future__ import annotations

import asyncio
import json
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
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.web.actions import Actions

from cmdc_testkit.events import ReceivedEvent
from cmdc_testkit.simulation.auditor import received
from cmdc_testkit.simulation.environment import PRINCIPAL, Environment, NoResponse, SimulatedGateway

_SECRET = "whsec_" + "c2VjcmV0" * 5
_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}


def registration(name: str, *, requires_approval: bool) -> RegisterToolBody:
    """The registration of one of the simulation's tools."""
    return RegisterToolBody.model_validate(
        {
            "name": name,
            "description": "",
            "parameters": _PARAMETERS,
            "callbackUrl": "https://tool.example/",
            "timeoutMs": 9_000,
            "requiresApproval": requires_approval,
            "secret": _SECRET,
        }
    )


class SimulatedUser:
    """A client that prompts, or makes decisions. At most one user of a session prompts, so that prompts have an order."""

    def __init__(self, environment: Environment, key: SessionKey, number: int) -> None:
        self.stopped = False
        self._environment = environment
        self._key = key
        self._random = environment.random_for(f"user {key.session_id}", number)
        self._name = f"{key.session_id}-{number}"
        self._sent = 0

    async def run(self, *, prompts: bool) -> None:
        while not self.stopped:
            await asyncio.sleep(self._random.choice((0, 0.01, 0.5, 3)))
            if prompts:
                await self._prompt()
            else:
                await self._interfere()

    async def settle(self) -> bool:
        """Decide everything that is pending; return whether the session has nothing left to do."""
        stored = await self._environment.disk.load(self._key)
        if stored is None or all(request.status == "done" for request in stored.requests):
            return True
        for approval in stored.approvals:
            await self._decide(approval.approval_id)
        for question in stored.questions:
            await self._respond(question.ref)
        return False

    async def _interfere(self) -> None:
        stored = await self._environment.disk.load(self._key)
        if stored is None:
            return
        rng = self._random
        match rng.randrange(12):
            case 0:
                await self._send(
                    "abort", lambda now, key: now.abort(PRINCIPAL, self._key, AbortBody.model_validate({}), key)
                )
            case 1:
                tool = registration(rng.choice(("count", "spare", "guarded")), requires_approval=rng.random() < 0.5)
                await self._send("tools", lambda now, key: now.register(PRINCIPAL, self._key, tool, key))
            case 2:
                await self._remove("spare")
            case 3:
                await self._invalid_decision([approval.approval_id for approval in stored.approvals])
            case _:
                for approval in stored.approvals:
                    await self._decide(approval.approval_id)
                for question in stored.questions:
                    await self._respond(question.ref)

    async def _invalid_decision(self, waiting: list[str]) -> None:
        """Send decisions that must be rejected."""
        wrong: dict[str, Any] = self._random.choice(({"digest": "0" * 64}, {"args": {"n": "no number"}}))
        for approval_id in [*waiting, "apr_unknown"]:
            sent = ApproveBody.model_validate({"approvalId": approval_id, **wrong})
            response = await self._send(
                "approve", lambda now, key, sent=sent: now.approve(PRINCIPAL, self._key, sent, key)
            )
            if response is not None:
                self._environment.auditor.report(f"APP-3: {approval_id} was approved with {wrong}")

    async def _prompt(self) -> None:
        response = await self._send(
            "prompt", lambda now, key: now.prompt(PRINCIPAL, self._key, PromptBody(text="go"), key)
        )
        if response is not None:
            await self._environment.auditor.accepted(
                self._key, json.loads(response.body)["requestId"], replayed=response.replayed
            )

    async def _decide(self, approval_id: str) -> None:
        rng = self._random
        if rng.random() < 0.5:
            edited = {"args": {"n": rng.randrange(9)}} if rng.random() < 0.3 else {}
            sent = ApproveBody.model_validate({"approvalId": approval_id, **edited})
            response = await self._send("approve", lambda now, key: now.approve(PRINCIPAL, self._key, sent, key))
            status = "approved"
        else:
            reject = RejectBody.model_validate({"approvalId": approval_id})
            response = await self._send("reject", lambda now, key: now.reject(PRINCIPAL, self._key, reject, key))
            status = "rejected"
        if response is not None:
            self._environment.auditor.decided(self._key.session_id, approval_id, status)

    async def _respond(self, ref: str) -> None:
        text = self._random.choice(("left", "right", "elsewhere"))
        sent = RespondBody(ref=ref, response=text)
        response = await self._send("respond", lambda now, key: now.respond(PRINCIPAL, self._key, sent, key))
        if response is not None:
            answers = self._environment.auditor.promises[self._key.session_id].answers
            if answers.setdefault(ref, text) != text:
                self._environment.auditor.report(f"ASK-1: {ref} was answered twice")

    async def _send(
        self, action: str, act: Callable[[Actions, str], Coroutine[Any, Any, StoredResponse]]
    ) -> StoredResponse | None:
        """Send a request under one Idempotency-Key until it returns; None if it returns an error."""
        self._sent += 1
        name = f"{self._name}-{self._sent}-{action}"
        while True:
            gateway = self._environment.gateway
            try:
                return await gateway.request(act(gateway.actions, name), self._random.choice((None, None, 0.1)))
            except (NoResponse, StoreUnavailable, Unavailable):
                pass
            except GatewayError as error:
                if error.code != "idempotency_in_progress":
                    return None
            await asyncio.sleep(self._random.choice((0.01, 0.2, 1)))

    async def _remove(self, tool: str) -> None:
        gateway = self._environment.gateway

        async def remove() -> None:
            session = await gateway.registry.find(self._key)
            await session.commands.remove_tool(tool, PRINCIPAL.key_id)

        with suppress(NoResponse, StoreUnavailable, GatewayError):
            await gateway.request(remove())


class SimulatedReader:
    """A reader that often loses its connection and resumes after its last event."""

    def __init__(self, environment: Environment, key: SessionKey, number: int) -> None:
        self._environment = environment
        self._key = key
        self._random = environment.random_for(f"reader {key.session_id}", number)
        self._promised = environment.auditor.promises[key.session_id]
        self._after = 0
        self._begin(0)

    async def read(self) -> None:
        while self._key not in self._environment.auditor.deleted:
            gateway = self._environment.gateway
            with suppress(NoResponse, StoreUnavailable, Unavailable, SessionNotFound):
                await gateway.request(self._connection(gateway), self._random.choice((0.1, 2, 30)), canceled=True)
            await asyncio.sleep(self._random.choice((0.01, 0.3)))

    async def caught_up(self) -> None:
        while self._key not in self._environment.auditor.deleted and self._after < len(self._promised.log):  # noqa: ASYNC110 - simulated time is free
            await asyncio.sleep(0.1)

    async def _connection(self, gateway: SimulatedGateway) -> None:
        log, session = await gateway.registry.log_of(self._key)
        reader = log.reader(max(self._after, log.first_seq - 1))
        if reader.seq > self._after:
            self._begin(reader.seq)  # as a client does whose cursor has expired
        try:
            while not gateway.killed.done():
                page = await reader.take()
                self._receive(page)
                if session is not None and page and page[-1].terminal:
                    session.mark_delivered(page[-1].seq)
                if not page:
                    if log.closed:
                        return
                    await reader.wait()
        except Trimmed:
            if self._environment.replay_events is None:
                self._environment.auditor.report("SSE-7: events are missing in the log")
        finally:
            reader.leave()

    def _begin(self, after: int) -> None:
        self._after = after
        self._events: list[ReceivedEvent] = []
        self._promised.streams.append(self._events)

    def _receive(self, page: list[LoggedEvent]) -> None:
        """Keep new events. A connection that was given up may still deliver what the next one has delivered."""
        self._environment.auditor.delivered(self._key.session_id, page)
        for event in page:
            if event.seq == self._after + 1:
                self._after = event.seq
                self._events.append(received(event))
