"""Any sequence of calls, made to a store and to a model of it that is too simple to be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cmdc_gateway.protocol import history
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, TokenUsage
from cmdc_gateway.store.store import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    ApprovalRow,
    AuditRow,
    CreateSession,
    DeleteSession,
    Lease,
    LeaseLost,
    MarkDelivered,
    OwnedElsewhere,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutResponse,
    PutSession,
    PutTool,
    QuestionRow,
    RemoveTool,
    RequestRow,
    SessionAlreadyExists,
    SessionKey,
    SessionRow,
    Store,
    StoredResponseRow,
    StoredSession,
    ToolRow,
    TrimEvents,
    UsageRow,
    Write,
)

T = TypeVar("T")

_KEYS = [SessionKey(tenant, session_id) for tenant in ("acme", "globex") for session_id in ("s1", "s2")]
_OWNERS = ["one", "two"]

keys = st.sampled_from(_KEYS)
few = st.integers(0, 5)
numbers = st.integers(0, 10**12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
usages = st.builds(TokenUsage, numbers, numbers)
costs = st.floats(0, 1e6)


@dataclass
class _Model:
    """One session as plain lists and dictionaries. The log is kept whole; `kept_from` is the first seq not trimmed."""

    row: SessionRow
    log: list[LoggedEvent] = field(default_factory=list[LoggedEvent])
    kept_from: int = 1
    messages: list[Message] = field(default_factory=list[Message])
    requests: dict[str, RequestRow] = field(default_factory=dict[str, RequestRow])
    approvals: dict[str, ApprovalRow] = field(default_factory=dict[str, ApprovalRow])
    questions: dict[str, QuestionRow] = field(default_factory=dict[str, QuestionRow])
    tools: dict[str, ToolRow] = field(default_factory=dict[str, ToolRow])
    owner: str = ""
    fence: Lease | None = None

    def kept(self) -> list[LoggedEvent]:
        return self.log[self.kept_from - 1 :]

    def stored(self) -> StoredSession:
        requests = sorted(self.requests.values(), key=lambda row: row.position)
        done = [row for row in requests if row.status == "done"]
        return StoredSession(
            row=self.row,
            messages=tuple(self.messages),
            requests=tuple(row for row in requests if row not in done[:-1]),
            approvals=tuple(row for row in self.approvals.values() if row.status == "pending"),
            questions=tuple(row for row in self.questions.values() if row.status == "pending"),
            tools=tuple(self.tools.values()),
            first_seq=self.kept_from,
            last_seq=len(self.log),
            last_position=max([row.position for row in requests], default=0),
        )


class StoreMachine(RuleBasedStateMachine):
    """Calls a store and the model by turns; what the store has must be what the model has, after every step."""

    def __init__(self, store: Store, reopen: Callable[[Store], Coroutine[Any, Any, Store]]) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._reopen = reopen
        self._store = store
        self._run(self._store.open())
        self._sessions: dict[SessionKey, _Model] = {}
        self._lost: list[Lease] = []
        self._alive: dict[str, int] = {}
        self._usage: dict[tuple[str, str, str], UsageRow] = {}
        self._answers: dict[tuple[str, str, str], StoredResponseRow] = {}
        self._trail: list[AuditRow] = []
        self._epochs = 0
        self._highest_token = 0
        self._now = 0

    def teardown(self) -> None:
        self._run(self._store.close())
        self._runner.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def _commit(self, *writes: Write, fence: Lease | None = None) -> type[Exception] | None:
        """Commit; return the class of what was raised."""
        try:
            self._run(self._store.commit(writes, fence))
        except (SessionAlreadyExists, LeaseLost, ValueError) as refusal:
            return type(refusal)
        return None

    def _commit_to(self, key: SessionKey, *writes: Write) -> _Model | None:
        """Commit what is right for a session, by its owner if it has one; return its model, None without a session."""
        model = self._sessions.get(key)
        refusal = self._commit(*writes, fence=model and model.fence)
        assert refusal is (None if model else LeaseLost)
        return model

    # -- sessions ------------------------------------------------------------------------------------------------------

    @rule(key=keys, created_at=few, settings=st.binary(max_size=9), prompts=numbers)
    def create(self, key: SessionKey, created_at: int, settings: bytes, prompts: int) -> None:
        self._epochs += 1
        row = SessionRow(key, f"e{self._epochs}", created_at, settings, prompts=prompts)
        refusal = self._commit(CreateSession(row))
        assert refusal is (SessionAlreadyExists if key in self._sessions else None)
        self._sessions.setdefault(key, _Model(row))

    @rule(
        key=keys,
        state=st.sampled_from(["idle", "working", "waiting_approval", "waiting_input"]),
        turns=numbers,
        calls=numbers,
        usage=usages,
        cost=costs,
        served=few,
    )
    def put(
        self, *, key: SessionKey, state: Any, turns: int, calls: int, usage: TokenUsage, cost: float, served: int
    ) -> None:
        row = SessionRow(key, "ignored", 77, b"ignored", state, turns, calls, 3, usage, cost, served)
        if model := self._commit_to(key, PutSession(row)):
            old = model.row
            served = max(served, old.delivered_seq)
            model.row = replace(
                row, epoch=old.epoch, created_at=old.created_at, settings=old.settings, delivered_seq=served
            )

    @rule(key=keys, seq=few)
    def mark_served(self, key: SessionKey, seq: int) -> None:
        assert self._commit(MarkDelivered(key, seq)) is None
        if model := self._sessions.get(key):
            model.row = replace(model.row, delivered_seq=max(seq, model.row.delivered_seq))

    @rule(key=keys)
    def delete(self, key: SessionKey) -> None:
        if (model := self._commit_to(key, DeleteSession(key))) and model.fence:
            self._lost.append(model.fence)
        self._sessions.pop(key, None)

    # -- what belongs to them ------------------------------------------------------------------------------------------

    @rule(
        key=keys,
        datas=st.lists(st.binary(max_size=30), max_size=4),
        gap=st.sampled_from([0, 0, 0, 0, -1, 1]),
        fenced=st.booleans(),
    )
    def append_events(self, key: SessionKey, datas: list[bytes], gap: int, *, fenced: bool) -> None:
        model = self._sessions.get(key)
        epoch, last = (model.row.epoch, len(model.log)) if model else ("none", 0)
        events = tuple(
            LoggedEvent(epoch, seq, "message_delta", self._now, data) for seq, data in enumerate(datas, last + 1 + gap)
        )
        refusal = self._commit(AppendEvents(key, events), fence=model.fence if model and fenced else None)
        if model is None:
            assert refusal is LeaseLost
        elif gap and events:
            assert refusal is ValueError
        else:
            assert refusal is None
            model.log += events

    @rule(key=keys, before=st.integers(-1, 30))
    def trim(self, key: SessionKey, before: int) -> None:
        if model := self._commit_to(key, TrimEvents(key, before)):
            model.kept_from = max(model.kept_from, min(before, len(model.log) + 1))

    @rule(key=keys, contents=st.lists(texts, max_size=3))
    def append_messages(self, key: SessionKey, contents: list[str]) -> None:
        messages = tuple(history.user(content) for content in contents)
        if model := self._commit_to(key, AppendMessages(key, messages)):
            model.messages += messages

    @rule(
        key=keys, name=few, status=st.sampled_from(["queued", "active", "done"]), text=texts, usage=usages, cost=costs
    )
    def put_request(
        self, *, key: SessionKey, name: int, status: Any, text: str, usage: TokenUsage, cost: float
    ) -> None:
        model = self._sessions.get(key)
        old = model and model.requests.get(f"r{name}")
        position = old.position if old else len(model.requests) + 1 if model else 1
        row = RequestRow(f"r{name}", position, "key", text, status, usage=usage, cost_usd=cost)
        if model := self._commit_to(key, PutRequest(key, row)):
            model.requests[row.request_id] = row

    @rule(key=keys, name=few, status=st.sampled_from(["pending", "approved"]), args=st.binary(max_size=9), at=numbers)
    def put_approval(self, key: SessionKey, name: int, status: Any, args: bytes, at: int) -> None:
        row = ApprovalRow(f"a{name}", "r1", "c1", "shell", args, "d", "h", at, at + 1 if at % 2 else None, status, args)
        if model := self._commit_to(key, PutApproval(key, row)):
            model.approvals[row.approval_id] = row

    @rule(
        key=keys,
        name=few,
        status=st.sampled_from(["pending", "answered"]),
        options=st.none() | st.lists(texts, max_size=3).map(tuple),
        response=texts,
    )
    def put_question(
        self, key: SessionKey, name: int, status: Any, options: tuple[str, ...] | None, response: str
    ) -> None:
        row = QuestionRow(f"q{name}", "r1", "c1", "What?", options, status, response)
        if model := self._commit_to(key, PutQuestion(key, row)):
            model.questions[row.ref] = row

    @rule(key=keys, name=few, definition=st.binary(max_size=9))
    def put_tool(self, key: SessionKey, name: int, definition: bytes) -> None:
        row = ToolRow(f"t{name}", definition)
        if model := self._commit_to(key, PutTool(key, row)):
            model.tools[row.name] = row

    @rule(key=keys, name=few)
    def remove_tool(self, key: SessionKey, name: int) -> None:
        if model := self._commit_to(key, RemoveTool(key, f"t{name}")):
            model.tools.pop(f"t{name}", None)

    @rule(key=keys, datas=st.lists(st.binary(max_size=9), min_size=1, max_size=3))
    def fail_half_way(self, key: SessionKey, datas: list[bytes]) -> None:
        """A commit whose last write is refused: the invariants will see whether the others were undone."""
        if model := self._sessions.get(key):
            first = len(model.log) + 1
            events = tuple(LoggedEvent(model.row.epoch, seq, "error", 0, data) for seq, data in enumerate(datas, first))
            refusal = self._commit(
                AppendAudit(AuditRow(0, "acme", key.session_id, "key0", "undone")),
                AddUsage(UsageRow("acme", "key0", "2026-01-01", 1)),
                AppendEvents(key, events),
                TrimEvents(key, first + 1),
                AppendMessages(key, (history.user("undone"),)),
                PutTool(key, ToolRow("undone", b"")),
                DeleteSession(key),
                PutSession(model.row),
            )
            assert refusal is LeaseLost

    # -- what belongs to tenants ---------------------------------------------------------------------------------------

    @rule(tenant=st.sampled_from(["acme", "globex"]), key_id=few, day=few, prompts=few, usage=usages, cost=costs)
    def add_usage(self, *, tenant: str, key_id: int, day: int, prompts: int, usage: TokenUsage, cost: float) -> None:
        row = UsageRow(tenant, f"key{key_id}", f"2026-01-0{day}", prompts, usage, cost)
        assert self._commit(AddUsage(row)) is None
        old = self._usage.get(place := (tenant, row.key_id, row.day), UsageRow(*(tenant, row.key_id, row.day)))
        self._usage[place] = replace(
            row, prompts=old.prompts + prompts, usage=old.usage + usage, cost_usd=old.cost_usd + cost
        )

    @rule(
        tenant=st.sampled_from(["acme", "globex"]), name=few, status=st.integers(200, 599), body=st.binary(max_size=9)
    )
    def put_answer(self, tenant: str, name: int, status: int, body: bytes) -> None:
        row = StoredResponseRow(tenant, "POST /v1/sessions", f"i{name}", "f", status, body, self._now)
        assert self._commit(PutResponse(row)) is None
        self._answers[tenant, row.route, row.idempotency_key] = row

    @rule(age=few)
    def forget_answers(self, age: int) -> None:
        before = self._now - age
        self._run(self._store.forget_responses(before))
        self._answers = {place: row for place, row in self._answers.items() if row.at >= before}

    @rule(tenant=st.sampled_from(["acme", "globex"]), subject=texts, detail=st.binary(max_size=9))
    def add_to_trail(self, tenant: str, subject: str, detail: bytes) -> None:
        row = AuditRow(self._now, tenant, "s1", "key0", "approved", subject, "d", detail)
        assert self._commit(AppendAudit(row)) is None
        self._trail.append(row)

    # -- ownership -----------------------------------------------------------------------------------------------------

    @rule(seconds=few)
    def wait(self, seconds: int) -> None:
        self._now += seconds

    @rule(owner=st.sampled_from(_OWNERS), seconds=few)
    def beat(self, owner: str, seconds: int) -> None:
        self._alive[owner] = self._now + seconds
        self._run(self._store.renew(owner, self._alive[owner]))

    @rule(key=keys, owner=st.sampled_from(_OWNERS))
    def claim(self, key: SessionKey, owner: str) -> None:
        model = self._sessions.get(key)
        try:
            fence = self._run(self._store.acquire(key, owner, self._now))
        except KeyError:
            assert model is None
            return
        except OwnedElsewhere:
            assert model
            assert model.owner not in {"", owner}
            assert self._alive.get(model.owner, 0) > self._now
            return
        assert model
        assert model.owner in {"", owner} or self._alive.get(model.owner, 0) <= self._now
        assert fence.key == key
        assert fence.token > self._highest_token
        self._highest_token = fence.token
        if model.fence:
            self._lost.append(model.fence)
        model.owner, model.fence = owner, fence

    @rule(key=keys)
    def release(self, key: SessionKey) -> None:
        if (model := self._sessions.get(key)) and model.fence:
            self._run(self._store.release(model.fence))
            self._lost.append(model.fence)
            model.owner, model.fence = "", None

    @precondition(lambda self: self._lost)
    @rule(data=st.data())
    def use_a_lost_fence(self, data: st.DataObject) -> None:
        fence = data.draw(st.sampled_from(self._lost))
        assert self._commit(AddUsage(UsageRow("acme", "key0", "2026-01-01", 1)), fence=fence) is LeaseLost
        self._run(self._store.release(fence))

    # -- from one process to the next ----------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        if self._store.durability == "memory":
            return
        self._store = self._run(self._reopen(self._store))
        # Whether owners of the process before count as alive is the store's affair: let them all be dead.
        self._now = max([self._now, *self._alive.values()])
        for model in self._sessions.values():
            model.owner, model.fence = "", None

    # -- what must be true after every step ----------------------------------------------------------------------------

    @invariant()
    def sessions_are_as_in_the_model(self) -> None:
        for key in _KEYS:
            model = self._sessions.get(key)
            assert self._run(self._store.load(key)) == (model and model.stored())
            assert self._run(self._store.events(key, 0, 1000)) == (model.kept() if model else [])

    @invariant()
    def lists_are_as_in_the_model(self) -> None:
        for tenant in ("acme", "globex"):
            rows = [model.row for model in self._sessions.values() if model.row.key.tenant == tenant]
            newest_first = sorted(rows, key=lambda row: (row.created_at, row.key.session_id), reverse=True)
            assert self._run(self._store.sessions(tenant, limit=10)) == newest_first
            usage = [row for place, row in sorted(self._usage.items()) if place[0] == tenant]
            assert self._run(self._store.usage(tenant)) == usage
        unfinished = {
            key for key, model in self._sessions.items() if any(row.status != "done" for row in model.requests.values())
        }
        assert set(self._run(self._store.unfinished())) == unfinished
        assert self._run(self._store.tracked_keys()) == len({place[:2] for place in self._usage})

    @invariant()
    def answers_are_as_in_the_model(self) -> None:
        for tenant in ("acme", "globex"):
            for name in range(6):
                place = (tenant, "POST /v1/sessions", f"i{name}")
                assert self._run(self._store.response(*place)) == self._answers.get(place)

    @invariant()
    def the_trail_is_as_in_the_model(self) -> None:
        assert self._run(self._store.audit(0, 1000)) == list(enumerate(self._trail, start=1))
