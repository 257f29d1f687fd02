"""Plays a sequence of steps against a server, with the model of each session at its side.

A step is a small table of JSON, so that a sequence can be kept and played again: `cmdc-conformance --replay FILE`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from cmdc_conformance.callbacks import HostedTool
from cmdc_conformance.case import Case
from cmdc_conformance.drivers.script import Reply
from cmdc_conformance.findings import Blocked, Failed, need, owed
from cmdc_conformance.model import OPTIONS, Kind, ModelSession, replies, told
from cmdc_conformance.monitors import Event, run_flaws
from cmdc_conformance.session import until_state
from cmdc_conformance.sse import Frame, StrictParser
from cmdc_conformance.wire import Http, JsonObject

Step = dict[str, Any]

# Stands for a session's id in a path that was kept.
ANY_SESSION = "{sessionId}"


@dataclass(slots=True)
class Played:
    """A session of the server, and what it should be."""

    id: str
    http: Http
    key: str
    free: HostedTool
    guarded: HostedTool
    should: ModelSession = field(default_factory=ModelSession)
    approval: str | None = None
    question: str | None = None

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.id}"


class Player:
    """Plays steps. Each raises Failed, with the requirement that was seen broken."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._tenants = [case.http, case.second]
        self.sessions: list[Played] = []
        self.steps: list[Step] = []

    async def play(self, step: Step) -> None:
        """Play one step, and let everything come to rest."""
        self.steps.append(step)
        self._case.watch.evidence.note(f"· {step}")
        match step["op"]:
            case "create":
                await self._create(step["tenant"])
                return
            case "script":
                await script_keeps(self._case, step["replies"])
                return
            case "request":
                async with self._case.session() as session:
                    path = str(step["path"]).replace(ANY_SESSION, session.id)
                    await request_is_refused(self._case, path, step["body"], step["part"], step["field"])
                return
            case _:
                pass
        if not self.sessions:
            return
        index: int = step["session"]
        played = self.sessions[index % len(self.sessions)]
        match step["op"]:
            case "prompt":
                await self._prompt(played, step["kind"])
            case "decide":
                await self._decide(played, step["action"])
            case "respond":
                await self._respond(played, step["answer"])
            case "abort":
                await self._abort(played)
            case "register":
                await self._register(played)
            case "read":
                await self._read(played, step["place"], step["cut"])
            case "foreign":
                await self._foreign(played)
            case "delete":
                await self._delete(played)
                return
            case other:
                raise Blocked(f"there is no step {other!r}")
        await self._rest(played)

    def waiting(self) -> tuple[int, str] | None:
        """A session that waits for a person, and for what."""
        return next(((at, each.should.waiting) for at, each in enumerate(self.sessions) if each.should.waiting), None)

    async def finish(self) -> None:
        """Compare each session with what it should be."""
        for played in self.sessions:
            await self._rest(played)
            await self._compare(played)

    async def close(self) -> None:
        """Delete every session."""
        for played in self.sessions:
            with suppress(Blocked):
                await played.http.delete(played.path)

    # -- the steps -----------------------------------------------------------------------------------------------------

    async def _create(self, tenant: int) -> None:
        http = self._tenants[tenant]
        fields = self._case.fields(tools=["ask_user"], approval={"tools": ["guarded"]})
        id_ = str((await http.post("/v1/sessions", fields)).needed(201)["sessionId"])
        host = self._case.suite.callbacks.host
        played = Played(id_, http, self._case.key_of(http, id_), host(), host())
        self.sessions.append(played)
        for name, hosted in (("free", played.free), ("guarded", played.guarded)):
            answer = await http.post(f"{played.path}/tools", self._case.tool(name, hosted), secret=True)
            answer.needed(201)

    async def _prompt(self, played: Played, kind: Kind) -> None:
        text = self._case.script(*replies(kind))
        played.http.watch.monitors.session(played.key).texts.add(text)
        answer = await played.http.post(f"{played.path}/prompt", {"text": text})
        body = answer.must_be(202)
        queued = played.should.prompt(text, kind)
        self._same("EP-prompt.queued", "queued", body.get("queued"), queued)

    async def _decide(self, played: Played, action: Literal["approve", "reject"]) -> None:
        status: Literal["approved", "rejected"] = "approved" if action == "approve" else "rejected"
        if played.approval is None:
            answer = await played.http.post(f"{played.path}/{action}", {"approvalId": "apr_never"})
            self._answered("APP-2.unknown", answer, 404, "not_found")
            return
        answer = await played.http.post(f"{played.path}/{action}", {"approvalId": played.approval})
        if played.should.waiting == "approval":
            self._answered("APP-1.approve" if action == "approve" else "APP-1.reject", answer, 200, None)
            played.should.decide(status)
        elif played.should.decided == status:
            self._answered("APP-2.same", answer, 200, None)
        else:
            self._answered("APP-2.other", answer, 409, "already_resolved")
            self._same("APP-2.other", "status", answer.body.get("status"), played.should.decided)

    async def _respond(self, played: Played, text: str) -> None:
        body = {"ref": played.question or "ask_never", "response": text}
        answer = await played.http.post(f"{played.path}/respond", body)
        if played.question is None:
            self._answered("ASK-1.unknown", answer, 404, "not_found")
        elif played.should.waiting == "question":
            if text not in OPTIONS:
                self._answered("ASK-1.options", answer, 400, "bad_request")
            else:
                self._answered("ASK-1.respond", answer, 200, None)
                played.should.respond(text)
        elif played.should.answered == text:
            self._answered("ASK-1.same", answer, 200, None)
        elif answer.status not in (400, 409):
            raise Failed(f"another answer to a question that is over was {answer.status}", "ASK-1.other")

    async def _abort(self, played: Played) -> None:
        answer = await played.http.post(f"{played.path}/abort", {})
        stopped = played.should.abort()
        self._answered("EP-abort.active" if stopped else "EP-abort.idle", answer, 202 if stopped else 200, None)
        self._same("EP-abort.active", "ok", answer.body.get("ok"), stopped)

    async def _register(self, played: Played) -> None:
        played.guarded = self._case.suite.callbacks.host()
        answer = await played.http.post(f"{played.path}/tools", self._case.tool("guarded", played.guarded), secret=True)
        self._answered("CB-1.replaced", answer, 201, None)
        if played.should.waiting == "approval":
            played.should.decide("cancelled")

    async def _foreign(self, played: Played) -> None:
        other = self._tenants[0] if played.http.key != self._tenants[0].key else self._tenants[1]
        for method, path, body in (
            ("GET", played.path, None),
            ("POST", f"{played.path}/prompt", {"text": "Mine?"}),
            ("POST", f"{played.path}/abort", {}),
            ("DELETE", played.path, None),
        ):
            self._answered("HTTP-8.routes", await other.request(method, path, body), 404, "not_found")

    async def _delete(self, played: Played) -> None:
        await self._rest(played)
        await self._compare(played)
        self._answered("EP-delete.deleted", await played.http.delete(played.path), 200, None)
        self._answered("EP-delete.deleted", await played.http.get(played.path), 404, "not_found")
        self.sessions.remove(played)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self, played: Played, place: int, cut: int) -> None:
        """Read the log from a place, lose the connection after so many bytes, and come back."""
        await self._rest(played)
        log = await self._log(played)
        if not log:
            return
        begin = place % len(log)
        cursor = log[begin - 1].id if begin else f"{str(log[0].id).partition('.')[0]}.0"
        came = await self._until_cut(played, str(cursor), cut)
        last = came[-1].id if came else str(cursor)
        rest = len(log) - begin - len(came)
        if rest > 0:
            path = {"after": str(last), "follow": "true"}
            async with played.http.events(played.id, played.key, whole=False, params=path) as reader:
                try:
                    await reader.count(rest)
                except Blocked as blocked:
                    raise Failed(f"after {last}: {blocked}", "SSE-6.live") from None
                came += [Frame(event.name, event.raw or "", event.id) for event in reader.events[:rest]]
        wanted = [str(event.id) for event in log[begin:]]
        got = [str(frame.id) for frame in came]
        for frame, event in zip(came, log[begin:], strict=False):
            if (frame.event, json.loads(frame.data)) != (event.name, event.data):
                raise Failed(f"the stream has {frame}, and the page {event}", "SSE-11.page")
        if got != wanted:
            raise Failed(
                f"read from {cursor}, cut after {cut} bytes, there came {got}, and the log is {wanted}", "SSE-6.live"
            )

    async def _until_cut(self, played: Played, cursor: str, cut: int) -> list[Frame]:
        """The whole frames among the first bytes of a stream."""
        parser, frames, left = StrictParser(), list[Frame](), cut
        path = f"{played.path}/events?after={cursor}&follow=true"
        async with played.http.opened(path) as response:
            need(response.status_code == 200, f"GET {path} is answered {response.status_code}")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):  # so many bytes may never come
                    async for piece in response.aiter_raw():
                        frames += [item for item in parser.feed(piece[:left]) if isinstance(item, Frame)]
                        left -= len(piece)
                        if left <= 0:
                            break
        return frames

    async def _log(self, played: Played) -> list[Event]:
        """The log as its pages have it."""
        events: list[Event] = []
        cursor = "start"
        while True:
            path = f"{played.path}/events?after={cursor}&limit=5000"
            body = (await played.http.get(path, headers={"Accept": "application/json"})).needed(200)
            page: list[JsonObject] = body["events"]
            events += [Event(each["event"], each["data"], each["id"]) for each in page]
            if not page:
                return events
            cursor = body["next"]

    # -- comparing -----------------------------------------------------------------------------------------------------

    async def _rest(self, played: Played) -> None:
        """Wait until nothing moves, and take down what waits."""
        try:
            info = await until_state(played.http, played.path, played.should.state)
            while len(info.get("queue", [])) != len(played.should.queue):
                await asyncio.sleep(0.02)
                info = await until_state(played.http, played.path, played.should.state)
        except Blocked as blocked:
            raise Failed(f"{blocked}, as the model has it", "EP-session.state") from None
        for pending in info.get("pendingApprovals", []):
            played.approval = pending["approvalId"]
        for pending in info.get("pendingQuestions", []):
            played.question = pending["ref"]

    async def _compare(self, played: Played) -> None:
        log = await self._log(played)
        self._same("EVT-1.grammar", "the log", told(log), played.should.log)
        numbers = [event.seq for event in log]
        self._same("EVT-7.gapless", "the numbers of the events", numbers, [*range(1, len(log) + 1)])
        messages: list[JsonObject] = (await played.http.get(f"{played.path}/messages")).needed(200)["messages"]
        said = [
            (each["role"], each["content"])
            for each in messages
            if each["role"] in ("user", "assistant") and each["content"]
        ]
        self._same("EP-messages.history", "the history", said, played.should.said)
        stats = (await played.http.get(f"{played.path}/stats")).needed(200)
        figures = (stats.get("promptCount"), stats.get("totalTokens"))
        self._same("MTR-1.counted", "prompts and tokens", figures, (played.should.prompts, played.should.tokens))

    def _same(self, requirement: str, what: str, is_: object, should: object) -> None:
        if is_ != should:
            raise Failed(f"{what} is {is_}, and by the model {should}; after {self.steps}"[:3000], requirement)

    def _answered(self, requirement: str, answer: Any, status: int, code: str | None) -> None:
        try:
            answer.must_be(status, code=code)
        except Failed as failed:
            raise Failed(f"{failed.message}; after {self.steps}"[:3000], requirement) from None


async def replay(case: Case, steps: list[Step]) -> None:
    """Play steps that were kept. Raises Failed, if what they showed is still so."""
    player = Player(case)
    try:
        for step in steps:
            await player.play(step)
        await player.finish()
    finally:
        await player.close()


async def script_keeps(case: Case, replies: Sequence[Reply]) -> None:
    """Run a script, and hold its events to what it says. Raises Failed."""
    async with case.session() as session:
        await case.register(session)
        with owed("a random script"):
            events = await session.ran(case.script(*replies))
    for requirement, message in run_flaws(events):
        raise Failed(message, requirement)
    fails = replies[-1].get("fail", {}).get("attempts") == 0
    ends = "agent_abort" if fails or replies[-1].get("cut") else "agent_end"
    if events[-1].name != ends:
        raise Failed(f"the run ended with {events[-1]}, and should with {ends}", "EVT-2.failure")
    shown = [reply for reply in replies if not fails or reply is not replies[-1]]
    for name, member in (("message_delta", "text"), ("thinking_delta", "thinking")):
        came = "".join(event.data["delta"] for event in events if event.name == name)
        said = "".join(piece for reply in shown for piece in reply.get(member, ()))
        if came != said:
            raise Failed(f"the model said {said!r}, and as {name} there came {came!r}")
    if ends == "agent_end":
        said = "".join(replies[-1]["text"])
        last: Any = events[-1].data["lastMessage"]
        if last is None or last.get("content") != said:
            raise Failed(f"the last step was {said!r}, and lastMessage is {last}", "EVT-3")
        total = sum(sum(reply["usage"].values()) for reply in replies)
        told = events[-1].data["tokenUsage"]["totalTokens"]
        if told != total:
            raise Failed(f"{total} tokens were used, and agent_end tells {told}", "MTR-1.counted")


async def request_is_refused(case: Case, path: str, body: JsonObject, part: str, field: str) -> None:
    """Send a body with one thing wrong: 400 naming the field. Raises Failed."""
    answer = await case.http.post(path, body, secret=True)
    if answer.status != 400 or answer.code != "bad_request":
        said = f"{path} with {body}: {part} {field} is answered {answer.status} {answer.code}"
        raise Failed(said, f"HTTP-3.{part}")
    if field not in answer.message and field not in str(answer.body.get("details")):
        raise Failed(f"{path}: the message does not name {field}: {answer.message!r}", f"HTTP-3.{part}")
