"""A hypothesis state machine: random calls of a store, compared with a model that is too simple to be wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from hypothesis import event, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmdc_gateway.protocol import history
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, TokenUsage
from cmdc_gateway.store.errors import LeaseLost, OwnedElsewhere, SessionAlreadyExists
from cmdc_gateway.store.rows import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    StoredResponseRow,
    StoredSession,
    ToolRow,
    UsageRow,
)
from cmdc_gateway.store.store import Lease, Store
from cmdc_gateway.store.writes import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    CreateSession,
    DeleteSession,
    MarkDelivered,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutResponse,
    PutSession,
    PutTool,
    RemoveTool,
    TrimEvents,
    Write,
)

T = TypeVar("T")

_TENANTS = ["acme", "globex"]
_ROUTE = "POST /v1/sessions"
_KEYS = [SessionKey(tenant, session_id) for tenant in _TENANTS for session_id in ("s1", "s2")]
_CREATED_KEYS = _KEYS[:-1]
_OWNERS = ["one", "two"]

_LeaseChoice = Literal["current", "none", "stale"]

keys = st.sampled_from(_CREATED_KEYS * 3 + _KEYS)
lease_choices = st.sampled_from(["current", "current", "none", "stale"])
small = st.integers(0, 5)
numbers = st.integers(0, 10**12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
data = st.binary(max_size=9)
tenants = st.sampled_from(_TENANTS)
usages = st.builds(TokenUsage, numbers, numbers)
costs = st.floats(0, 1e6)


@dataclass
class Counts:
    """How the writes to sessions were made, over all runs of a machine."""

    writes: Counter[str] = field(default_factory=Counter[str])

    def add(self, kind: Literal["leased", "unleased", "stale", "missing"]) -> None:
        """Count a write: with the current lease, without one, with a stale one, or to a session that does not exist."""
        event(f"write to a session: {kind}")
        self.writes[kind] += 1

    def check(self) -> None:
        """Raise AssertionError if too few writes could have had an effect, or too few tested the lease."""
        total = self.writes.total()
        assert self.writes["leased"] + self.writes["unleased"] >= total / 3, self.writes
        assert self.writes["leased"] >= total / 10, self.writes
        assert self.writes["stale"] >= total / 40, self.writes


@dataclass
class _Model:
    """One session as plain lists and dictionaries. The log is kept whole; `first_seq` is the first seq not trimmed."""

    row: SessionRow
    log: list[LoggedEvent] = field(default_factory=list[LoggedEvent])
    first_seq: int = 1
    messages: list[Message] = field(default_factory=list[Message])
    requests: dict[str, RequestRow] = field(default_factory=dict[str, RequestRow])
    approvals: dict[str, ApprovalRow] = field(default_factory=dict[str, ApprovalRow])
    questions: dict[str, QuestionRow] = field(default_factory=dict[str, QuestionRow])
    tools: dict[str, ToolRow] = field(default_factory=dict[str, ToolRow])
    owner: str = ""
    lease: Lease | None = None

    def events(self) -> list[LoggedEvent]:
        """The events that are not trimmed."""
        return self.log[self.first_seq - 1 :]

    def stored(self) -> StoredSession:
        """What `Store.load` must return."""
        requests = sorted(self.requests.values(), key=lambda row: row.position)
        done = [row for row in requests if row.status == "done"]
        return StoredSession(
            row=self.row,
            messages=tuple(self.messages),
            requests=tuple(row for row in requests if row not in done[:-1]),
            approvals=tuple(row for row in self.approvals.values() if row.status == "pending"),
            questions=tuple(row for row in self.questions.values() if row.status == "pending"),
            tools=tuple(self.tools.values()),
            first_seq=self.first_seq,
            last_seq=len(self.log),
            last_position=max([row.position for row in requests], default=0),
        )


class StoreMachine(RuleBasedStateMachine):
    """Makes each call to the store and to the model; after every step, both must hold the same.

    A run begins with sessions that exist, are leased, and have a stale lease, so that most writes have an effect. `counts`
    shows whether they had.
    """

    def __init__(self, store: Store, reopen: Callable[[Store], Coroutine[Any, Any, Store]], counts: Counts) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._reopen = reopen
        self._counts = counts
        self._store = store
        self._run(self._store.open())
        self._sessions: dict[SessionKey, _Model] = {}
        self._stale: dict[SessionKey, list[Lease]] = {key: [] for key in _KEYS}
        self._expiry: dict[str, int] = {}
        self._usage: dict[tuple[str, str, str], UsageRow] = {}
        self._responses: dict[tuple[str, str, str], StoredResponseRow] = {}
        self._audit: list[AuditRow] = []
        self._epochs = 0
        self._highest_token = 0
        self._effective_writes = 0
        self._now = 0

    def teardown(self) -> None:
        if self._effective_writes:
            target(self._effective_writes, label="writes to existing sessions")
        self._run(self._store.close())
        self._runner.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def _commit(self, *writes: Write, lease: Lease | None = None) -> type[Exception] | None:
        """Commit the writes; return the class of the exception that was raised, None for success."""
        try:
            self._run(self._store.commit(writes, lease))
        except (SessionAlreadyExists, LeaseLost, ValueError) as rejection:
            return type(rejection)
        return None

    def _commit_to(
        self, key: SessionKey, write: Write, choice: _LeaseChoice, rejection: type[Exception] | None = None
    ) -> _Model | None:
        """Commit a write to a session with the chosen lease; return the session's model if the write has an effect.

        `rejection` is what the store must raise if the session exists and the lease is not stale.
        """
        model = self._sessions.get(key)
        if choice == "stale" and self._stale[key]:
            self._counts.add("stale")
            assert self._commit(write, lease=self._stale[key][-1]) is LeaseLost
            return None
        if model is None:
            self._counts.add("missing")
            assert self._commit(write) is LeaseLost
            return None
        lease = None if choice == "none" else model.lease
        self._counts.add("leased" if lease else "unleased")
        assert self._commit(write, lease=lease) is rejection
        if rejection:
            return None
        self._effective_writes += 1
        return model

    # -- sessions ------------------------------------------------------------------------------------------------------

    @initialize()
    def create_and_acquire_sessions(self) -> None:
        for key in _CREATED_KEYS:
            self.create(key, created_at=1, settings=b"{}", prompts=0)
            self.acquire(key, "one")
            self.acquire(key, "one")

    @rule(key=keys, created_at=small, settings=data, prompts=numbers)
    def create(self, key: SessionKey, created_at: int, settings: bytes, prompts: int) -> None:
        self._epochs += 1
        row = SessionRow(key, f"e{self._epochs}", created_at, settings, prompts=prompts)
        rejection = self._commit(CreateSession(row))
        assert rejection is (SessionAlreadyExists if key in self._sessions else None)
        self._sessions.setdefault(key, _Model(row))

    @rule(
        key=keys,
        lease=lease_choices,
        state=st.sampled_from(["idle", "working", "waiting_approval", "waiting_input"]),
        turns=numbers,
        calls=numbers,
        usage=usages,
        cost=costs,
        delivered_seq=small,
    )
    def put_session(
        self,
        *,
        key: SessionKey,
        lease: _LeaseChoice,
        state: Any,
        turns: int,
        calls: int,
        usage: TokenUsage,
        cost: float,
        delivered_seq: int,
    ) -> None:
        row = SessionRow(key, "ignored", 77, b"ignored", state, turns, calls, 3, usage, cost, delivered_seq)
        if model := self._commit_to(key, PutSession(row), lease):
            old = model.row
            model.row = replace(
                row,
                epoch=old.epoch,
                created_at=old.created_at,
                settings=old.settings,
                delivered_seq=max(delivered_seq, old.delivered_seq),
            )

    @rule(key=keys, seq=small)
    def mark_delivered(self, key: SessionKey, seq: int) -> None:
        assert self._commit(MarkDelivered(key, seq)) is None
        if model := self._sessions.get(key):
            model.row = replace(model.row, delivered_seq=max(seq, model.row.delivered_seq))

    # Some sessions are always left to write to.
    @precondition(lambda self: len(self._sessions) > len(_KEYS) / 2)
    @rule(key=keys, lease=lease_choices)
    def delete(self, key: SessionKey, lease: _LeaseChoice) -> None:
        if model := self._commit_to(key, DeleteSession(key), lease):
            self._end_lease(model)
            del self._sessions[key]

    # -- what belongs to a session -------------------------------------------------------------------------------------

    @rule(
        key=keys,
        lease=lease_choices,
        payloads=st.lists(st.binary(max_size=30), max_size=4),
        gap=st.sampled_from([0, 0, 0, 0, -1, 1]),
    )
    def append_events(self, key: SessionKey, lease: _LeaseChoice, payloads: list[bytes], gap: int) -> None:
        epoch, last_seq = self._end_of_log(key)
        events = tuple(
            LoggedEvent(epoch, seq, "message_delta", self._now, payload)
            for seq, payload in enumerate(payloads, last_seq + 1 + gap)
        )
        rejection = ValueError if gap and events else None
        if model := self._commit_to(key, AppendEvents(key, events), lease, rejection):
            model.log += events

    @rule(key=keys, lease=lease_choices, before=st.integers(-1, 30))
    def trim_events(self, key: SessionKey, lease: _LeaseChoice, before: int) -> None:
        if model := self._commit_to(key, TrimEvents(key, before), lease):
            model.first_seq = max(model.first_seq, min(before, len(model.log) + 1))

    @rule(key=keys, lease=lease_choices, contents=st.lists(texts, max_size=3))
    def append_messages(self, key: SessionKey, lease: _LeaseChoice, contents: list[str]) -> None:
        messages = tuple(history.user(content) for content in contents)
        if model := self._commit_to(key, AppendMessages(key, messages), lease):
            model.messages += messages

    @rule(
        key=keys,
        lease=lease_choices,
        number=small,
        status=st.sampled_from(["queued", "active", "done"]),
        text=texts,
        usage=usages,
        cost=costs,
    )
    def put_request(
        self,
        *,
        key: SessionKey,
        lease: _LeaseChoice,
        number: int,
        status: Any,
        text: str,
        usage: TokenUsage,
        cost: float,
    ) -> None:
        model = self._sessions.get(key)
        old = model and model.requests.get(f"r{number}")
        position = old.position if old else len(model.requests) + 1 if model else 1
        row = RequestRow(f"r{number}", position, "key", text, status, usage=usage, cost_usd=cost)
        if model := self._commit_to(key, PutRequest(key, row), lease):
            model.requests[row.request_id] = row

    @rule(
        key=keys,
        lease=lease_choices,
        number=small,
        status=st.sampled_from(["pending", "approved"]),
        args=data,
        at=numbers,
    )
    def put_approval(
        self, *, key: SessionKey, lease: _LeaseChoice, number: int, status: Any, args: bytes, at: int
    ) -> None:
        expires_at = at + 1 if at % 2 else None
        row = ApprovalRow(f"a{number}", "r1", "c1", "shell", args, "d", "h", at, expires_at, status, args)
        if model := self._commit_to(key, PutApproval(key, row), lease):
            model.approvals[row.approval_id] = row

    @rule(
        key=keys,
        lease=lease_choices,
        number=small,
        status=st.sampled_from(["pending", "answered"]),
        options=st.none() | st.lists(texts, max_size=3).map(tuple),
        response=texts,
    )
    def put_question(
        self,
        *,
        key: SessionKey,
        lease: _LeaseChoice,
        number: int,
        status: Any,
        options: tuple[str, ...] | None,
        response: str,
    ) -> None:
        row = QuestionRow(f"q{number}", "r1", "c1", "What?", options, status, response)
        if model := self._commit_to(key, PutQuestion(key, row), lease):
            model.questions[row.ref] = row

    @rule(key=keys, lease=lease_choices, number=small, definition=data)
    def put_tool(self, key: SessionKey, lease: _LeaseChoice, number: int, definition: bytes) -> None:
        row = ToolRow(f"t{number}", definition)
        if model := self._commit_to(key, PutTool(key, row), lease):
            model.tools[row.name] = row

    @rule(key=keys, lease=lease_choices, number=small)
    def remove_tool(self, key: SessionKey, lease: _LeaseChoice, number: int) -> None:
        if model := self._commit_to(key, RemoveTool(key, f"t{number}"), lease):
            model.tools.pop(f"t{number}", None)

    @rule(key=keys, payloads=st.lists(data, min_size=1, max_size=3))
    def commit_writes_of_which_the_last_fails(self, key: SessionKey, payloads: list[bytes]) -> None:
        """The invariants check that the other writes are rolled back."""
        if model := self._sessions.get(key):
            epoch, last_seq = self._end_of_log(key)
            events = tuple(
                LoggedEvent(epoch, seq, "error", 0, payload) for seq, payload in enumerate(payloads, last_seq + 1)
            )
            rejection = self._commit(
                AppendAudit(AuditRow(0, "acme", key.session_id, "key0", "undone")),
                AddUsage(UsageRow("acme", "key0", "2026-01-01", 1)),
                AppendEvents(key, events),
                TrimEvents(key, last_seq + 2),
                AppendMessages(key, (history.user("undone"),)),
                PutTool(key, ToolRow("undone", b"")),
                DeleteSession(key),
                PutSession(model.row),
                lease=model.lease,
            )
            assert rejection is LeaseLost

    def _end_of_log(self, key: SessionKey) -> tuple[str, int]:
        model = self._sessions.get(key)
        return (model.row.epoch, len(model.log)) if model else ("none", 0)

    # -- what belongs to a tenant --------------------------------------------------------------------------------------

    @rule(tenant=tenants, key_number=small, day=small, prompts=small, usage=usages, cost=costs)
    def add_usage(
        self, *, tenant: str, key_number: int, day: int, prompts: int, usage: TokenUsage, cost: float
    ) -> None:
        row = UsageRow(tenant, f"key{key_number}", f"2026-01-0{day}", prompts, usage, cost)
        assert self._commit(AddUsage(row)) is None
        usage_key = (tenant, row.key_id, row.day)
        old = self._usage.get(usage_key, UsageRow(*usage_key))
        self._usage[usage_key] = replace(
            row, prompts=old.prompts + prompts, usage=old.usage + usage, cost_usd=old.cost_usd + cost
        )

    @rule(tenant=tenants, number=small, status=st.integers(200, 599), body=data)
    def put_response(self, tenant: str, number: int, status: int, body: bytes) -> None:
        row = StoredResponseRow(tenant, _ROUTE, f"i{number}", "f", status, body, self._now)
        assert self._commit(PutResponse(row)) is None
        self._responses[tenant, row.route, row.idempotency_key] = row

    @rule(age=small)
    def forget_responses(self, age: int) -> None:
        before = self._now - age
        self._run(self._store.forget_responses(before))
        self._responses = {key: row for key, row in self._responses.items() if row.at >= before}

    @rule(tenant=tenants, subject=texts, detail=data)
    def append_audit(self, tenant: str, subject: str, detail: bytes) -> None:
        row = AuditRow(self._now, tenant, "s1", "key0", "approved", subject, "d", detail)
        assert self._commit(AppendAudit(row)) is None
        self._audit.append(row)

    # -- leases --------------------------------------------------------------------------------------------------------

    @rule(seconds=small)
    def wait(self, seconds: int) -> None:
        self._now += seconds

    @rule(owner=st.sampled_from(_OWNERS), seconds=small)
    def renew(self, owner: str, seconds: int) -> None:
        self._expiry[owner] = self._now + seconds
        self._run(self._store.renew(owner, self._expiry[owner]))

    @rule(key=keys, owner=st.sampled_from(_OWNERS))
    def acquire(self, key: SessionKey, owner: str) -> None:
        model = self._sessions.get(key)
        held_elsewhere = (
            model is not None and model.owner not in {"", owner} and self._expiry.get(model.owner, 0) > self._now
        )
        try:
            lease = self._run(self._store.acquire(key, owner, self._now))
        except KeyError:
            assert model is None
        except OwnedElsewhere:
            assert held_elsewhere
        else:
            assert model
            assert not held_elsewhere
            assert lease.key == key
            assert lease.token > self._highest_token
            self._highest_token = lease.token
            self._end_lease(model)
            model.owner, model.lease = owner, lease

    @rule(key=keys)
    def release(self, key: SessionKey) -> None:
        if (model := self._sessions.get(key)) and model.lease:
            self._run(self._store.release(model.lease))
            self._end_lease(model)

    @precondition(lambda self: any(self._stale.values()))
    @rule(choices=st.data())
    def release_a_stale_lease(self, choices: st.DataObject) -> None:
        lease = choices.draw(st.sampled_from([lease for leases in self._stale.values() for lease in leases]))
        self._run(self._store.release(lease))
        assert self._commit(AddUsage(UsageRow("acme", "key0", "2026-01-01", 1)), lease=lease) is LeaseLost

    def _end_lease(self, model: _Model) -> None:
        if model.lease:
            self._stale[model.row.key].append(model.lease)
        model.owner, model.lease = "", None

    # -- restarts ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._store.durability != "memory")
    @rule()
    def restart(self) -> None:
        self._store = self._run(self._reopen(self._store))
        # A store may or may not keep leases over a restart: let all of them expire, and acquire the sessions again.
        self._now = max([self._now, *self._expiry.values()])
        for key in self._sessions:
            self.acquire(key, "one")

    # -- after every step ----------------------------------------------------------------------------------------------

    @invariant()
    def sessions_equal_the_model(self) -> None:
        for key in _KEYS:
            model = self._sessions.get(key)
            assert self._run(self._store.load(key)) == (model and model.stored())
            assert self._run(self._store.events(key, 0, 1000)) == (model.events() if model else [])

    @invariant()
    def lists_equal_the_model(self) -> None:
        for tenant in _TENANTS:
            rows = [model.row for model in self._sessions.values() if model.row.key.tenant == tenant]
            newest_first = sorted(rows, key=lambda row: (row.created_at, row.key.session_id), reverse=True)
            assert self._run(self._store.sessions(tenant, limit=10)) == newest_first
            usage = [row for usage_key, row in sorted(self._usage.items()) if usage_key[0] == tenant]
            assert self._run(self._store.usage(tenant)) == usage
        unfinished = {
            key for key, model in self._sessions.items() if any(row.status != "done" for row in model.requests.values())
        }
        assert set(self._run(self._store.unfinished())) == unfinished
        assert self._run(self._store.tracked_keys()) == len({usage_key[:2] for usage_key in self._usage})

    @invariant()
    def responses_equal_the_model(self) -> None:
        for tenant in _TENANTS:
            for number in range(6):
                response_key = (tenant, _ROUTE, f"i{number}")
                assert self._run(self._store.response(*response_key)) == self._responses.get(response_key)

    @invariant()
    def the_audit_log_equals_the_model(self) -> None:
        assert self._run(self._store.audit(0, 1000)) == list(enumerate(self._audit, start=1))
