"""Executes a sequence of steps against a server, with a reference model beside each session.

A step is a small JSON object, so that a sequence can be saved and executed again: `cmdc-conformance --replay FILE`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.properties.reference_model import OPTIONS, Kind, ReferenceSession, replies, summarize
from cmdc_conformance.drivers.callbacks import HostedTool
from cmdc_conformance.drivers.script import Reply
from cmdc_conformance.drivers.session import wait_for_state
from cmdc_conformance.findings import Blocked, Failed, fails_if_blocked, require
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.grammar import grammar_errors
from cmdc_conformance.wire.http import ApiClient, ApiResponse, JsonObject
from cmdc_conformance.wire.sse import Frame, StrictParser

Step = dict[str, Any]

ANY_SESSION = "{sessionId}"
"""Stands for a session's id in the path of a saved step."""

_MAX_MESSAGE = 3000


@dataclass(slots=True)
class TrackedSession:
    """A session of the server, and its expected state."""

    id: str
    http: ApiClient
    key: str
    free: HostedTool
    guarded: HostedTool
    expected: ReferenceSession = field(default_factory=ReferenceSession)
    approval: str | None = None
    question: str | None = None

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.id}"


class StepExecutor:
    """Executes steps. Each raises Failed, with the requirement that the server violates."""

    def __init__(self, ctx: CheckContext) -> None:
        self._ctx = ctx
        self._tenants = [ctx.http, ctx.second_tenant]
        self.sessions: list[TrackedSession] = []
        self.steps: list[Step] = []

    async def execute(self, step: Step) -> None:
        """Execute a step, then wait until its session is at rest."""
        self.steps.append(step)
        self._ctx.observer.evidence.note(f"· {step}")
        match step["op"]:
            case "create":
                await self._create(step["tenant"])
                return
            case "script":
                await check_script(self._ctx, step["replies"])
                return
            case "request":
                async with self._ctx.session() as session:
                    path = str(step["path"]).replace(ANY_SESSION, session.id)
                    await check_rejected(self._ctx, path, step["body"], step["part"], step["field"])
                return
            case _:
                pass
        if not self.sessions:
            return
        index: int = step["session"]
        tracked = self.sessions[index % len(self.sessions)]
        match step["op"]:
            case "prompt":
                await self._prompt(tracked, step["kind"])
            case "decide":
                await self._decide(tracked, step["action"])
            case "respond":
                await self._respond(tracked, step["answer"])
            case "abort":
                await self._abort(tracked)
            case "register":
                await self._register(tracked)
            case "read":
                await self._read(tracked, step["place"], step["cut"])
            case "foreign":
                await self._access_as_other_tenant(tracked)
            case "delete":
                await self._delete(tracked)
                return
            case other:
                raise Blocked(f"unknown step {other!r}")
        await self._wait_until_at_rest(tracked)

    def waiting(self) -> tuple[int, str] | None:
        """The index of a session that waits for a person, and what it waits for."""
        return next(
            (
                (index, each.expected.waiting_for)
                for index, each in enumerate(self.sessions)
                if each.expected.waiting_for is not None
            ),
            None,
        )

    async def finish(self) -> None:
        """Compare each session with its expected state."""
        for tracked in self.sessions:
            await self._wait_until_at_rest(tracked)
            await self._compare(tracked)

    async def close(self) -> None:
        """Delete every session."""
        for tracked in self.sessions:
            with suppress(Blocked):
                await tracked.http.delete(tracked.path)

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _create(self, tenant: int) -> None:
        http = self._tenants[tenant]
        body = self._ctx.create_body(tools=["ask_user"], approval={"tools": ["guarded"]})
        id_ = str((await http.post("/v1/sessions", body)).require(201)["sessionId"])
        host = self._ctx.run_state.callbacks.host
        tracked = TrackedSession(id_, http, self._ctx.session_key(http, id_), host(), host())
        self.sessions.append(tracked)
        for name, hosted in (("free", tracked.free), ("guarded", tracked.guarded)):
            response = await http.post(f"{tracked.path}/tools", self._ctx.tool(name, hosted), secret=True)
            response.require(201)

    async def _prompt(self, tracked: TrackedSession, kind: Kind) -> None:
        text = self._ctx.script(*replies(kind))
        tracked.http.observer.monitors.session(tracked.key).texts.add(text)
        response = await tracked.http.post(f"{tracked.path}/prompt", {"text": text})
        body = response.expect(202)
        queued = tracked.expected.prompt(text, kind)
        self._expect_equal("EP-prompt.queued", "queued", body.get("queued"), queued)

    async def _decide(self, tracked: TrackedSession, action: Literal["approve", "reject"]) -> None:
        status: Literal["approved", "rejected"] = "approved" if action == "approve" else "rejected"
        if tracked.approval is None:
            response = await tracked.http.post(f"{tracked.path}/{action}", {"approvalId": "apr_never"})
            self._expect_response("APP-2.unknown", response, 404, "not_found")
            return
        response = await tracked.http.post(f"{tracked.path}/{action}", {"approvalId": tracked.approval})
        if tracked.expected.waiting_for == "approval":
            self._expect_response("APP-1.approve" if action == "approve" else "APP-1.reject", response, 200, None)
            tracked.expected.decide(status)
        elif tracked.expected.decided == status:
            self._expect_response("APP-2.same", response, 200, None)
        else:
            self._expect_response("APP-2.other", response, 409, "already_resolved")
            self._expect_equal("APP-2.other", "status", response.body.get("status"), tracked.expected.decided)

    async def _respond(self, tracked: TrackedSession, text: str) -> None:
        body = {"ref": tracked.question or "ask_never", "response": text}
        response = await tracked.http.post(f"{tracked.path}/respond", body)
        if tracked.question is None:
            self._expect_response("ASK-1.unknown", response, 404, "not_found")
        elif tracked.expected.waiting_for == "question":
            if text not in OPTIONS:
                self._expect_response("ASK-1.options", response, 400, "bad_request")
            else:
                self._expect_response("ASK-1.respond", response, 200, None)
                tracked.expected.respond(text)
        elif tracked.expected.answered == text:
            self._expect_response("ASK-1.same", response, 200, None)
        elif response.status not in (400, 409):
            raise Failed(f"a different answer to a resolved question returned {response.status}", "ASK-1.other")

    async def _abort(self, tracked: TrackedSession) -> None:
        response = await tracked.http.post(f"{tracked.path}/abort", {})
        aborted = tracked.expected.abort()
        self._expect_response(
            "EP-abort.active" if aborted else "EP-abort.idle", response, 202 if aborted else 200, None
        )
        self._expect_equal("EP-abort.active", "ok", response.body.get("ok"), aborted)

    async def _register(self, tracked: TrackedSession) -> None:
        tracked.guarded = self._ctx.run_state.callbacks.host()
        response = await tracked.http.post(
            f"{tracked.path}/tools", self._ctx.tool("guarded", tracked.guarded), secret=True
        )
        self._expect_response("CB-1.replaced", response, 201, None)
        if tracked.expected.waiting_for == "approval":
            tracked.expected.decide("cancelled")

    async def _access_as_other_tenant(self, tracked: TrackedSession) -> None:
        other = self._tenants[0] if tracked.http.key != self._tenants[0].key else self._tenants[1]
        for method, path, body in (
            ("GET", tracked.path, None),
            ("POST", f"{tracked.path}/prompt", {"text": "Mine?"}),
            ("POST", f"{tracked.path}/abort", {}),
            ("DELETE", tracked.path, None),
        ):
            self._expect_response("HTTP-8.routes", await other.request(method, path, body), 404, "not_found")

    async def _delete(self, tracked: TrackedSession) -> None:
        await self._wait_until_at_rest(tracked)
        await self._compare(tracked)
        self._expect_response("EP-delete.deleted", await tracked.http.delete(tracked.path), 200, None)
        self._expect_response("EP-delete.deleted", await tracked.http.get(tracked.path), 404, "not_found")
        self.sessions.remove(tracked)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self, tracked: TrackedSession, place: int, cut: int) -> None:
        """Read the log from a position, lose the connection after `cut` bytes, and resume."""
        await self._wait_until_at_rest(tracked)
        log = await self._log(tracked)
        if not log:
            return
        start = place % len(log)
        cursor = log[start - 1].id if start else f"{str(log[0].id).partition('.')[0]}.0"
        received = await self._read_until_cut(tracked, str(cursor), cut)
        last = received[-1].id if received else str(cursor)
        remaining = len(log) - start - len(received)
        if remaining > 0:
            params = {"after": str(last), "follow": "true"}
            async with tracked.http.events(tracked.id, tracked.key, whole=False, params=params) as reader:
                try:
                    await reader.wait_for_count(remaining)
                except Blocked as blocked:
                    raise Failed(f"after {last}: {blocked}", "SSE-6.live") from None
                received += [Frame(event.name, event.raw or "", event.id) for event in reader.events[:remaining]]
        expected_ids = [str(event.id) for event in log[start:]]
        received_ids = [str(frame.id) for frame in received]
        for frame, event in zip(received, log[start:], strict=False):
            if (frame.event, json.loads(frame.data)) != (event.name, event.data):
                raise Failed(f"the stream has {frame}, and the page has {event}", "SSE-11.page")
        if received_ids != expected_ids:
            raise Failed(
                f"reading from {cursor} with a cut after {cut} bytes returned {received_ids}; the log is {expected_ids}",
                "SSE-6.live",
            )

    async def _read_until_cut(self, tracked: TrackedSession, cursor: str, cut: int) -> list[Frame]:
        """The complete frames within the first `cut` bytes of a stream."""
        parser, frames, remaining = StrictParser(), list[Frame](), cut
        path = f"{tracked.path}/events?after={cursor}&follow=true"
        async with tracked.http.open_stream(path) as response:
            require(response.status_code == 200, f"GET {path} returned {response.status_code}")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):  # the stream may have fewer bytes, and stays open
                    async for chunk in response.aiter_raw():
                        frames += [item for item in parser.feed(chunk[:remaining]) if isinstance(item, Frame)]
                        remaining -= len(chunk)
                        if remaining <= 0:
                            break
        return frames

    async def _log(self, tracked: TrackedSession) -> list[Event]:
        """The whole log, from its JSON pages."""
        events: list[Event] = []
        cursor = "start"
        while True:
            path = f"{tracked.path}/events?after={cursor}&limit=5000"
            body = (await tracked.http.get(path, headers={"Accept": "application/json"})).require(200)
            page: list[JsonObject] = body["events"]
            events += [Event(each["event"], each["data"], each["id"]) for each in page]
            if not page:
                return events
            cursor = body["next"]

    # -- comparing -----------------------------------------------------------------------------------------------------

    async def _wait_until_at_rest(self, tracked: TrackedSession) -> None:
        """Wait for the expected state; remember the pending approval and question."""
        try:
            info = await wait_for_state(tracked.http, tracked.path, tracked.expected.state)
            while len(info.get("queue", [])) != len(tracked.expected.queue):
                await asyncio.sleep(0.02)
                info = await wait_for_state(tracked.http, tracked.path, tracked.expected.state)
        except Blocked as blocked:
            raise Failed(f"differs from the reference model: {blocked}", "EP-session.state") from None
        for pending in info.get("pendingApprovals", []):
            tracked.approval = pending["approvalId"]
        for pending in info.get("pendingQuestions", []):
            tracked.question = pending["ref"]

    async def _compare(self, tracked: TrackedSession) -> None:
        log = await self._log(tracked)
        self._expect_equal("EVT-1.grammar", "the log", summarize(log), tracked.expected.log)
        numbers = [event.seq for event in log]
        self._expect_equal("EVT-7.gapless", "the sequence numbers", numbers, [*range(1, len(log) + 1)])
        messages: list[JsonObject] = (await tracked.http.get(f"{tracked.path}/messages")).require(200)["messages"]
        spoken = [
            (each["role"], each["content"])
            for each in messages
            if each["role"] in ("user", "assistant") and each["content"]
        ]
        self._expect_equal("EP-messages.history", "the history", spoken, tracked.expected.messages)
        stats = (await tracked.http.get(f"{tracked.path}/stats")).require(200)
        counts = (stats.get("promptCount"), stats.get("totalTokens"))
        expected = (tracked.expected.prompts, tracked.expected.tokens)
        self._expect_equal("MTR-1.counted", "(promptCount, totalTokens)", counts, expected)

    def _expect_equal(self, requirement: str, what: str, actual: object, expected: object) -> None:
        if actual != expected:
            message = f"{what} is {actual}, and {expected} in the reference model; after {self.steps}"
            raise Failed(message[:_MAX_MESSAGE], requirement)

    def _expect_response(self, requirement: str, response: ApiResponse, status: int, code: str | None) -> None:
        try:
            response.expect(status, code=code)
        except Failed as failed:
            raise Failed(f"{failed.message}; after {self.steps}"[:_MAX_MESSAGE], requirement) from None


async def replay(ctx: CheckContext, steps: list[Step]) -> None:
    """Execute saved steps. Raises Failed if the failure that they led to still occurs."""
    executor = StepExecutor(ctx)
    try:
        for step in steps:
            await executor.execute(step)
        await executor.finish()
    finally:
        await executor.close()


async def check_script(ctx: CheckContext, replies: Sequence[Reply]) -> None:
    """Run a script and compare its events with it. Raises Failed."""
    async with ctx.session() as session:
        await ctx.register(session)
        with fails_if_blocked("a random script"):
            events = await session.run_to_end(ctx.script(*replies))
    for requirement, message in grammar_errors(events):
        raise Failed(message, requirement)
    fails = replies[-1].get("fail", {}).get("attempts") == 0
    end = "agent_abort" if fails or replies[-1].get("cut") else "agent_end"
    if events[-1].name != end:
        raise Failed(f"the run ended with {events[-1]}, expected {end}", "EVT-2.failure")
    visible = [reply for reply in replies if not fails or reply is not replies[-1]]
    for name, member in (("message_delta", "text"), ("thinking_delta", "thinking")):
        received = "".join(event.data["delta"] for event in events if event.name == name)
        sent = "".join(piece for reply in visible for piece in reply.get(member, ()))
        if received != sent:
            raise Failed(f"the model sent {sent!r}, and {name} events contain {received!r}")
    if end == "agent_end":
        sent = "".join(replies[-1]["text"])
        last: Any = events[-1].data["lastMessage"]
        if last is None or last.get("content") != sent:
            raise Failed(f"the text of the last step is {sent!r}, and lastMessage is {last}", "EVT-3")
        total = sum(sum(reply["usage"].values()) for reply in replies)
        counted = events[-1].data["tokenUsage"]["totalTokens"]
        if counted != total:
            raise Failed(f"the run used {total} tokens, and agent_end has {counted}", "MTR-1.counted")


async def check_rejected(ctx: CheckContext, path: str, body: JsonObject, part: str, field: str) -> None:
    """Send a body with one error: the server must return 400 and name the field. Raises Failed."""
    response = await ctx.http.post(path, body, secret=True)
    if response.status != 400 or response.code != "bad_request":
        message = f"{path} with {body} ({part} {field}) returned {response.status} {response.code}"
        raise Failed(message, f"HTTP-3.{part}")
    if field not in response.message and field not in str(response.body.get("details")):
        raise Failed(f"{path}: the message does not name {field}: {response.message!r}", f"HTTP-3.{part}")
