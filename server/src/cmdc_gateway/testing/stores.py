"""The contract of `cmdc_gateway.store.store.Store` as tests, sentence by sentence.

The tests of a store subclass it:

```python
class TestMyStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: MyStore(tmp_path / uuid4().hex)

    def attach(self, store: Store) -> Store:
        assert isinstance(store, MyStore)
        return MyStore(store.path)
```

Needs pytest, pytest-asyncio and hypothesis (`cmdc-gateway[testing]`). For detailed assertion messages, call
`pytest.register_assert_rewrite("cmdc_gateway.testing")` in conftest.py.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import pytest_asyncio
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from cmdc_gateway.protocol import history
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, ToolCall
from cmdc_gateway.store.errors import LeaseLost, OwnedElsewhere, SessionAlreadyExists, StoreUnavailable
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
from cmdc_gateway.testing.store_machine import Counts, StoreMachine

T = TypeVar("T")

KEY = SessionKey("acme", "s1")
EPOCH = "k3x9"
ROW = SessionRow(
    KEY,
    EPOCH,
    created_at=1_700_000_000_000,
    settings='{"systemPrompt":"Où est 🐈?"}'.encode(),
    state="working",
    turns=3,
    tool_calls=2,
    prompts=1,
    usage=TokenUsage(70, 30),
    cost_usd=0.0125,
    delivered_seq=9,
)
REQUEST = RequestRow("r1", 1, "key-1", "Grüße 👋\0", "active", 1, 0, 2, 1, TokenUsage(7, 3), 0.001)
APPROVAL = ApprovalRow("a1", "r1", "c1", "shell", b'{"command":"ls"}', "d" * 64, "run a command", 1000, None)
QUESTION = QuestionRow("q1", "r1", "c2", "Which one?", ("left", "right"))
TOOL = ToolRow("get_weather", b'{"secret":"whsec_AAAA"}')
MESSAGES = (
    history.system("Be brief."),
    history.user("Hello"),
    history.assistant("Let me see.", (ToolCall("c1", "get_weather", {"city": "Tromsø", "days": [1, None, 2.5]}),)),
    history.tool_result(ToolCall("c1", "get_weather", {}), "no such city", is_error=True),
)
USAGE = UsageRow("acme", "key-1", "2026-11-22", 1, TokenUsage(7, 3), 0.5)
RESPONSE = StoredResponseRow("acme", "POST /v1/sessions", "idem-1", "f" * 64, 201, b'{"sessionId":"s1"}', at=1000)
AUDITED = AuditRow(1_700_000_000_000, "acme", "s1", "key-1", "approved", "a1", "d" * 64, '{"toolName":"où"}'.encode())


def _event(seq: int, data: bytes = b'{"delta":"\xc3\xa5"}', epoch: str = EPOCH) -> LoggedEvent:
    return LoggedEvent(epoch, seq, "message_delta", 1_700_000_000_000 + seq, data)


def _events(first: int, last: int) -> tuple[LoggedEvent, ...]:
    return tuple(_event(seq) for seq in range(first, last + 1))


# One of each write to what belongs to an existing session.
SESSION_WRITES: tuple[Write, ...] = (
    PutSession(ROW),
    AppendEvents(KEY, _events(1, 2)),
    TrimEvents(KEY, 2),
    AppendMessages(KEY, MESSAGES),
    PutRequest(KEY, REQUEST),
    PutApproval(KEY, APPROVAL),
    PutQuestion(KEY, QUESTION),
    PutTool(KEY, TOOL),
    RemoveTool(KEY, "no_such_tool"),
)


@pytest.mark.asyncio
class StoreContract(ABC):
    """Every store must pass these tests. A subclass provides `make_store` and, unless the store is in memory, `attach`."""

    @pytest.fixture
    @abstractmethod
    def make_store(self) -> Callable[[], Store]:
        """A function that creates a new, empty store, not open, at every call."""

    def attach(self, store: Store) -> Store:
        """A second store object, not open, for the data of this one, as another process would create it.

        Not called if the store's durability is `memory`.
        """
        raise NotImplementedError

    async def reopen(self, store: Store) -> Store:
        """Close the store; open its data as another process would after a restart."""
        await store.close()
        again = self.attach(store)
        await again.open()
        return again

    @pytest_asyncio.fixture
    async def store(self, make_store: Callable[[], Store]) -> AsyncIterator[Store]:
        store = make_store()
        await store.open()
        yield store
        await store.close()

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def test_a_created_session_can_be_loaded(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])

        assert await store.log_bounds(KEY) == (EPOCH, 1, 0)
        assert await store.load(KEY) == StoredSession(ROW, (), (), (), (), (), 1, 0, 0)

    async def test_a_session_that_was_never_created_does_not_exist(self, store: Store) -> None:
        assert await store.load(KEY) is None
        assert await store.log_bounds(KEY) is None
        assert await store.events(KEY, 0, 10) == []
        assert await store.messages(KEY) == []
        assert await store.request(KEY, "r1") is None
        assert await store.approval(KEY, "a1") is None
        assert await store.question(KEY, "q1") is None

    async def test_a_session_cannot_be_created_twice(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])

        with pytest.raises(SessionAlreadyExists):
            await store.commit([CreateSession(replace(ROW, epoch="other"))])

        assert await self._loaded(store, lambda loaded: loaded.row) == ROW

    async def test_two_tenants_can_use_the_same_session_id(self, store: Store) -> None:
        """HTTP-8."""
        other = SessionKey("globex", KEY.session_id)
        await store.commit([CreateSession(ROW), *SESSION_WRITES])
        await store.commit([CreateSession(SessionRow(other, "m", 1, b"{}"))])

        assert await store.load(other) == StoredSession(SessionRow(other, "m", 1, b"{}"), (), (), (), (), (), 1, 0, 0)
        assert [row.key for row in await store.sessions("globex", limit=10)] == [other]

    async def test_put_session_changes_neither_key_epoch_creation_time_nor_settings(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        later = replace(ROW, state="idle", turns=4, tool_calls=3, prompts=2, usage=TokenUsage(80, 40), cost_usd=0.5)

        await store.commit([PutSession(replace(later, epoch="z", created_at=5, settings=b"[]"))])

        assert await self._loaded(store, lambda loaded: loaded.row) == later

    async def test_delivered_seq_is_never_lowered(self, store: Store) -> None:
        """SSE-5."""
        await store.commit([CreateSession(replace(ROW, delivered_seq=0))])

        delivered: list[int] = []
        for write in (
            MarkDelivered(KEY, 9),
            MarkDelivered(KEY, 4),
            PutSession(replace(ROW, delivered_seq=2)),
            MarkDelivered(KEY, 12),
        ):
            await store.commit([write])
            delivered.append(await self._loaded(store, lambda loaded: loaded.row.delivered_seq))

        assert delivered == [9, 9, 9, 12]

    async def test_mark_delivered_has_no_effect_on_a_session_that_does_not_exist(self, store: Store) -> None:
        await store.commit([MarkDelivered(KEY, 3)])

        assert await store.load(KEY) is None

    async def test_deleting_a_session_deletes_everything_that_belongs_to_it(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), *SESSION_WRITES, AddUsage(USAGE), PutResponse(RESPONSE)])

        await store.commit([DeleteSession(KEY)])

        await self.test_a_session_that_was_never_created_does_not_exist(store)
        assert await store.unfinished() == []
        assert await store.sessions("acme", limit=10) == []
        assert await store.usage("acme") == [USAGE]
        assert await store.response("acme", RESPONSE.route, RESPONSE.idempotency_key) == RESPONSE

    async def test_a_session_that_is_recreated_starts_empty(self, store: Store) -> None:
        again = replace(ROW, epoch="second")
        await store.commit([CreateSession(ROW), *SESSION_WRITES])

        await store.commit([DeleteSession(KEY), CreateSession(again)])

        assert await store.load(KEY) == StoredSession(again, (), (), (), (), (), 1, 0, 0)
        await store.commit([AppendEvents(KEY, (_event(1, epoch="second"),))])
        assert await store.events(KEY, 0, 10) == [_event(1, epoch="second")]

    async def test_sessions_are_listed_newest_first(self, store: Store) -> None:
        ages = {"a": 10, "b": 20, "c": 20, "d": 30, "e": 5}
        rows = {name: SessionRow(SessionKey("acme", name), "x", at, b"{}") for name, at in ages.items()}
        rows["c"] = replace(rows["c"], state="working")
        await store.commit([CreateSession(row) for row in rows.values()])
        await store.commit([CreateSession(SessionRow(SessionKey("globex", "f"), "x", 15, b"{}"))])

        async def listed(limit: int = 10, before: tuple[int, str] | None = None, *, working: bool | None = None) -> str:
            state = None if working is None else "working" if working else "idle"
            found = await store.sessions("acme", limit=limit, before=before, state=state)
            assert found == [rows[row.key.session_id] for row in found]
            return "".join(row.key.session_id for row in found)

        assert await listed() == "dcbae"
        assert await listed(limit=2) == "dc"
        assert await listed(before=(20, "c")) == "bae"
        assert await listed(before=(20, "b"), limit=1) == "a"
        assert await listed(before=(10**30, "")) == "dcbae"
        assert await listed(working=True) == "c"
        assert await listed(working=False, before=(30, "d")) == "bae"

    # -- the log -------------------------------------------------------------------------------------------------------

    async def test_events_are_returned_in_order_from_the_requested_seq(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), AppendEvents(KEY, _events(1, 3))])
        await store.commit([AppendEvents(KEY, _events(4, 5)), AppendEvents(KEY, ()), AppendEvents(KEY, _events(6, 6))])

        assert await store.events(KEY, 0, 10) == list(_events(1, 6))
        assert await store.events(KEY, 2, 3) == list(_events(3, 5))
        assert await store.events(KEY, 6, 10) == []
        assert await store.events(KEY, 10**19, 10) == []
        assert await store.log_bounds(KEY) == (EPOCH, 1, 6)

    async def test_a_page_of_events_is_limited_in_bytes_but_has_at_least_one_event(self, store: Store) -> None:
        log = [_event(seq, b"x" * 40) for seq in range(1, 6)]
        await store.commit([CreateSession(ROW), AppendEvents(KEY, tuple(log))])

        assert await store.events(KEY, 0, 10, max_bytes=80) == log[:2]
        assert await store.events(KEY, 0, 10, max_bytes=119) == log[:2]
        assert await store.events(KEY, 3, 10, max_bytes=1) == log[3:4]

    @pytest.mark.parametrize(
        "wrong", [(_event(3),), (_event(1),), (_event(2), _event(4)), (_event(2, epoch="other"),)], ids=str
    )
    async def test_events_that_do_not_continue_the_log_are_rejected(
        self, store: Store, wrong: tuple[LoggedEvent, ...]
    ) -> None:
        await store.commit([CreateSession(ROW), AppendEvents(KEY, _events(1, 1))])

        with pytest.raises(ValueError, match="the log continues with event"):
            await store.commit([AppendEvents(KEY, wrong)])

        assert await store.events(KEY, 0, 10) == [_event(1)]

    async def test_a_trimmed_log_continues_its_seqs(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), AppendEvents(KEY, _events(1, 5))])

        async def trimmed(before: int) -> tuple[str, int, int] | None:
            await store.commit([TrimEvents(KEY, before)])
            return await store.log_bounds(KEY)

        assert await trimmed(1) == (EPOCH, 1, 5)
        assert await trimmed(3) == (EPOCH, 3, 5)
        assert await trimmed(2) == (EPOCH, 3, 5)
        assert await store.events(KEY, 0, 2) == list(_events(3, 4))
        assert await trimmed(100) == (EPOCH, 6, 5)
        assert await store.events(KEY, 0, 10) == []
        await store.commit([AppendEvents(KEY, _events(6, 7))])
        assert await store.log_bounds(KEY) == (EPOCH, 6, 7)
        assert await store.events(KEY, 0, 10) == list(_events(6, 7))

    async def test_trimming_a_long_log_takes_effect_immediately(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), AppendEvents(KEY, _events(1, 5000))])

        await store.commit([TrimEvents(KEY, 4000)])

        assert await store.events(KEY, 0, 1) == [_event(4000)]
        assert await store.log_bounds(KEY) == (EPOCH, 4000, 5000)

    # -- messages, requests, approvals, questions, tools ---------------------------------------------------------------

    async def test_messages_are_returned_in_order_from_the_requested_position(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), AppendMessages(KEY, MESSAGES[:2])])
        await store.commit([AppendMessages(KEY, MESSAGES[2:])])

        assert tuple(await store.messages(KEY)) == MESSAGES
        assert tuple(await store.messages(KEY, 1, 2)) == MESSAGES[1:3]
        assert await store.messages(KEY, 10**19, 5) == []
        assert await store.messages(KEY, 4) == []
        assert await self._loaded(store, lambda loaded: loaded.messages) == MESSAGES

    async def test_a_request_can_be_inserted_and_replaced(self, store: Store) -> None:
        done = replace(REQUEST, status="done", last_seq=9, steps=3, usage=TokenUsage(9, 9), cost_usd=1.5)
        await store.commit([CreateSession(ROW), PutRequest(KEY, REQUEST)])
        assert await store.request(KEY, "r1") == REQUEST

        await store.commit([PutRequest(KEY, done)])

        assert await store.request(KEY, "r1") == done
        assert await self._loaded(store, lambda loaded: loaded.requests) == (done,)

    async def test_two_requests_cannot_share_a_position(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), PutRequest(KEY, REQUEST)])

        with pytest.raises(ValueError, match="position 1"):
            await store.commit([PutRequest(KEY, replace(REQUEST, request_id="r2"))])

        assert await store.request(KEY, "r2") is None

    async def test_load_returns_the_unfinished_requests_and_the_newest_done_one(self, store: Store) -> None:
        rows = [
            replace(REQUEST, request_id=f"r{position}", position=position, status=status)
            for position, status in ((4, "queued"), (1, "done"), (3, "active"), (2, "done"))
        ]
        await store.commit([CreateSession(ROW), *(PutRequest(KEY, row) for row in rows)])

        loaded = await store.load(KEY)

        assert loaded
        assert [row.position for row in loaded.requests] == [2, 3, 4]
        assert loaded.last_position == 4

    async def test_unfinished_sessions_have_a_request_that_is_not_done(self, store: Store) -> None:
        for name, status in (("a", "done"), ("b", "queued"), ("c", "active"), ("d", None)):
            key = SessionKey("acme", name)
            await store.commit([CreateSession(replace(ROW, key=key))])
            if status:
                await store.commit([PutRequest(key, replace(REQUEST, status=status))])

        assert {key.session_id for key in await store.unfinished()} == {"b", "c"}

    async def test_load_returns_only_pending_approvals_and_questions_but_all_can_be_found_by_id(
        self, store: Store
    ) -> None:
        """APP-2, APP-4, ASK-1."""
        other, question = replace(APPROVAL, approval_id="a0", expires_at=5), replace(QUESTION, ref="q0", options=None)
        decided = replace(APPROVAL, status="approved", decision=b'{"args":{}}')
        answered = replace(QUESTION, status="answered", response="left\u2028")
        await store.commit([CreateSession(ROW), PutApproval(KEY, APPROVAL), PutApproval(KEY, other)])
        await store.commit([PutQuestion(KEY, QUESTION), PutQuestion(KEY, question)])
        assert await self._loaded(store, lambda loaded: loaded.approvals) == (APPROVAL, other)
        assert await self._loaded(store, lambda loaded: loaded.questions) == (QUESTION, question)

        await store.commit([PutApproval(KEY, decided), PutQuestion(KEY, answered)])

        assert await self._loaded(store, lambda loaded: loaded.approvals) == (other,)
        assert await self._loaded(store, lambda loaded: loaded.questions) == (question,)
        assert await store.approval(KEY, "a1") == decided
        assert await store.question(KEY, "q1") == answered

    async def test_tools_keep_their_order_when_replaced_and_can_be_removed(self, store: Store) -> None:
        """CB-1."""
        first, second, third = (ToolRow(name, b"{}") for name in ("zeta", "alpha", "mid"))
        again = ToolRow("zeta", b'{"timeoutMs":1}')
        await store.commit([CreateSession(ROW), *(PutTool(KEY, tool) for tool in (first, second, third))])

        await store.commit([PutTool(KEY, again), RemoveTool(KEY, "alpha"), RemoveTool(KEY, "never_there")])

        assert await self._loaded(store, lambda loaded: loaded.tools) == (again, third)

    # -- usage and responses -------------------------------------------------------------------------------------------

    async def test_usage_adds_up_by_tenant_key_and_day(self, store: Store) -> None:
        """MTR-1."""
        tomorrow = replace(USAGE, day="2026-11-23")
        other_key, other_tenant = replace(USAGE, key_id="key-0"), replace(USAGE, tenant="globex")
        await store.commit([AddUsage(row) for row in (USAGE, USAGE, tomorrow, other_key, other_tenant)])
        await store.commit([AddUsage(replace(USAGE, prompts=0))])

        tripled = replace(USAGE, prompts=2, usage=TokenUsage(21, 9), cost_usd=1.5)
        assert await store.usage("acme") == [other_key, tripled, tomorrow]
        assert await store.usage("globex") == [other_tenant]
        assert await store.usage("initech") == []
        assert await store.tracked_keys() == 3

    async def test_a_response_is_kept_until_it_is_forgotten_by_age(self, store: Store) -> None:
        """HTTP-11."""
        newer = replace(RESPONSE, idempotency_key="idem-2", at=2000)
        elsewhere = replace(RESPONSE, tenant="globex", route="POST /v1/sessions/s1/prompt", at=3000)
        await store.commit([PutResponse(replace(RESPONSE, status=500)), PutResponse(RESPONSE)])
        await store.commit([PutResponse(newer), PutResponse(elsewhere)])
        assert await store.response("acme", RESPONSE.route, "idem-1") == RESPONSE
        assert await store.response("globex", RESPONSE.route, "idem-1") is None

        await store.forget_responses(before=2000)

        assert await store.response("acme", RESPONSE.route, "idem-1") is None
        assert await store.response("acme", RESPONSE.route, "idem-2") == newer
        assert await store.response("globex", elsewhere.route, "idem-1") == elsewhere

    async def test_many_responses_are_forgotten_in_one_call(self, store: Store) -> None:
        await store.commit([PutResponse(replace(RESPONSE, idempotency_key=f"idem-{n}")) for n in range(1200)])

        await store.forget_responses(before=RESPONSE.at + 1)

        assert [await store.response("acme", RESPONSE.route, f"idem-{n}") for n in (0, 600, 1199)] == [None, None, None]

    # -- the audit log -------------------------------------------------------------------------------------------------

    async def test_audit_rows_are_returned_in_commit_order_from_the_requested_number(self, store: Store) -> None:
        rows = [replace(AUDITED, subject=f"a{n}", at=AUDITED.at - n) for n in range(1, 6)]
        await store.commit([AppendAudit(row) for row in rows[:2]])
        await asyncio.gather(*(store.commit([AppendAudit(row)]) for row in rows[2:]))
        everything = list(enumerate(rows, start=1))

        assert await store.audit(0, 100) == everything
        assert await store.audit(2, 2) == everything[2:4]
        assert await store.audit(5, 100) == await store.audit(1 << 70, 100) == await store.audit(0, 0) == []

    async def test_the_audit_log_of_a_session_outlives_the_session(self, store: Store) -> None:
        await store.commit([CreateSession(ROW), AppendAudit(AUDITED)])
        deleted = replace(AUDITED, action="session_deleted", subject="", digest="", detail=b"{}")

        await store.commit([AppendAudit(deleted), DeleteSession(KEY)])
        await store.commit([CreateSession(ROW)])

        assert await store.audit(0, 100) == [(1, AUDITED), (2, deleted)]

    async def test_a_rejected_commit_appends_nothing_to_the_audit_log(self, store: Store) -> None:
        """The number of its row is used for the next one."""
        await store.commit([CreateSession(ROW)])

        with pytest.raises(SessionAlreadyExists):
            await store.commit([AppendAudit(AUDITED), CreateSession(ROW)])
        await store.commit([AppendAudit(replace(AUDITED, subject="next"))])

        assert await store.audit(0, 100) == [(1, replace(AUDITED, subject="next"))]

    # -- leases --------------------------------------------------------------------------------------------------------

    async def test_only_an_existing_session_can_be_acquired(self, store: Store) -> None:
        with pytest.raises(KeyError):
            await store.acquire(KEY, "one", now=0)

    async def test_a_session_cannot_be_acquired_before_the_leases_of_its_owner_expire(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        await store.renew("one", until=50)
        await store.renew("one", until=100)
        await store.acquire(KEY, "one", now=0)

        with pytest.raises(OwnedElsewhere):
            await store.acquire(KEY, "two", now=99)
        await store.acquire(KEY, "two", now=100)

    async def test_the_leases_of_an_owner_that_never_renewed_have_expired(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        first = await store.acquire(KEY, "one", now=0)

        second = await store.acquire(KEY, "two", now=0)

        assert second.token > first.token

    async def test_acquire_invalidates_earlier_leases(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        await store.renew("one", until=100)
        first = await store.acquire(KEY, "one", now=0)

        second = await store.acquire(KEY, "one", now=0)

        assert (first.key, second.key) == (KEY, KEY)
        assert second.token > first.token
        with pytest.raises(LeaseLost):
            await store.commit([AppendEvents(KEY, _events(1, 1))], first)
        await store.commit([AppendEvents(KEY, _events(1, 1))], second)
        assert await store.events(KEY, 0, 10) == [_event(1)]

    async def test_a_lease_that_was_used_is_invalidated_too(self, store: Store) -> None:
        """DUR-1: a store that caches a lease must drop it from the cache."""
        await store.commit([CreateSession(ROW)])
        first = await store.acquire(KEY, "one", now=0)
        await store.commit([AppendEvents(KEY, _events(1, 1))], first)

        second = await store.acquire(KEY, "two", now=0)

        with pytest.raises(LeaseLost):
            await store.commit([AppendEvents(KEY, _events(2, 2))], first)
        await store.commit([AppendEvents(KEY, _events(2, 2))], second)
        await store.release(second)
        with pytest.raises(LeaseLost):
            await store.commit([AppendEvents(KEY, _events(3, 3))], second)
        assert await store.events(KEY, 0, 10) == list(_events(1, 2))

    async def test_a_released_session_can_be_acquired_by_another_owner(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        await store.renew("one", until=100)
        first = await store.acquire(KEY, "one", now=0)

        await store.release(first)

        with pytest.raises(LeaseLost):
            await store.commit([], first)
        second = await store.acquire(KEY, "two", now=0)
        await store.release(first)
        await store.commit([PutSession(ROW)], second)

    async def test_deleting_a_session_invalidates_its_lease(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        await store.renew("one", until=100)
        first = await store.acquire(KEY, "one", now=0)
        await store.commit([DeleteSession(KEY)], first)

        with pytest.raises(LeaseLost):
            await store.commit([CreateSession(ROW)], first)
        await store.release(first)
        await store.commit([CreateSession(ROW)])
        with pytest.raises(LeaseLost):
            await store.commit([PutSession(ROW)], first)
        assert (await store.acquire(KEY, "two", now=0)).token > first.token

    async def test_a_lease_is_checked_only_by_commits_that_pass_one(self, store: Store) -> None:
        other = SessionKey("acme", "s2")
        await store.commit([CreateSession(ROW)])
        lease = await store.acquire(KEY, "one", now=0)

        await store.commit([CreateSession(replace(ROW, key=other)), PutTool(other, TOOL)], lease)
        await store.commit([PutTool(KEY, TOOL)])

        assert await self._loaded(store, lambda loaded: loaded.tools) == (TOOL,)
        assert await self._loaded(store, lambda loaded: loaded.tools, other) == (TOOL,)

    # -- commits -------------------------------------------------------------------------------------------------------

    async def test_a_commit_applies_all_of_its_writes_or_none(self, store: Store) -> None:
        taken = SessionKey("acme", "taken")
        await store.commit([CreateSession(ROW), CreateSession(replace(ROW, key=taken))])
        await store.commit([PutTool(KEY, TOOL), PutRequest(KEY, REQUEST), AppendEvents(KEY, _events(1, 3))])
        await store.commit([AppendMessages(KEY, MESSAGES[:1]), PutApproval(KEY, APPROVAL), PutResponse(RESPONSE)])
        lease = await store.acquire(KEY, "one", now=0)
        before = await store.load(KEY)
        everything: list[Write] = [
            MarkDelivered(KEY, 50),
            TrimEvents(KEY, 3),
            AppendEvents(KEY, _events(4, 5)),
            AppendMessages(KEY, MESSAGES[1:]),
            PutRequest(KEY, replace(REQUEST, position=8)),
            PutRequest(KEY, replace(REQUEST, request_id="r2")),
            PutApproval(KEY, replace(APPROVAL, status="rejected")),
            PutQuestion(KEY, QUESTION),
            RemoveTool(KEY, TOOL.name),
            AddUsage(USAGE),
            PutResponse(replace(RESPONSE, status=500)),
            AppendAudit(AUDITED),
            PutSession(replace(ROW, turns=99)),
            DeleteSession(KEY),
            CreateSession(replace(ROW, epoch="second")),
        ]

        with pytest.raises(SessionAlreadyExists):
            await store.commit([*everything, CreateSession(replace(ROW, key=taken))], lease)

        assert await store.load(KEY) == before
        assert await store.events(KEY, 0, 10) == list(_events(1, 3))
        assert (await store.usage("acme"), await store.request(KEY, "r2")) == ([], None)
        assert await store.response("acme", RESPONSE.route, RESPONSE.idempotency_key) == RESPONSE
        assert await store.audit(0, 10) == []
        await store.commit(everything, lease)
        assert await store.audit(0, 10) == [(1, AUDITED)]
        assert await store.load(KEY) == StoredSession(replace(ROW, epoch="second"), (), (), (), (), (), 1, 0, 0)

    @pytest.mark.parametrize("write", [*SESSION_WRITES, DeleteSession(KEY)], ids=lambda write: type(write).__name__)
    async def test_writes_to_a_session_that_does_not_exist_are_rejected(self, store: Store, write: Write) -> None:
        with pytest.raises(LeaseLost):
            await store.commit([AddUsage(USAGE), write])

        assert await store.usage("acme") == []

    async def test_commits_are_applied_in_the_order_of_the_calls(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])

        await asyncio.gather(*(store.commit([AppendEvents(KEY, (_event(seq),))]) for seq in range(1, 301)))

        assert await store.events(KEY, 0, 1000) == list(_events(1, 300))

    async def test_a_rejected_commit_does_not_affect_concurrent_ones(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        rows = [replace(ROW, key=SessionKey("acme", f"n{n}")) if n % 2 else ROW for n in range(40)]

        outcomes = await asyncio.gather(
            *(store.commit([AddUsage(USAGE), CreateSession(row)]) for row in rows), return_exceptions=True
        )

        assert [type(outcome) for outcome in outcomes] == [SessionAlreadyExists, type(None)] * 20
        assert len(await store.sessions("acme", limit=100)) == 21
        assert [row.prompts for row in await store.usage("acme")] == [20]

    async def test_cancelling_a_commit_does_not_undo_it(self, store: Store) -> None:
        await store.commit([CreateSession(ROW)])
        waiting = asyncio.create_task(store.commit([PutTool(KEY, TOOL)]))
        await asyncio.sleep(0)

        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        await store.commit([AddUsage(USAGE)])
        assert await self._loaded(store, lambda loaded: loaded.tools) == (TOOL,)

    # -- opening, closing, restarting ----------------------------------------------------------------------------------

    async def test_an_open_store_answers_a_ping(self, store: Store) -> None:
        await store.ping()

    async def test_close_finishes_pending_commits_and_can_be_repeated(self, make_store: Callable[[], Store]) -> None:
        store = make_store()
        await store.open()
        commits = [asyncio.create_task(store.commit([AddUsage(USAGE)])) for _ in range(50)]
        await asyncio.sleep(0)

        await store.close()
        await store.close()

        assert await asyncio.gather(*commits) == [None] * 50

    async def test_commits_survive_a_restart(self, store: Store) -> None:
        """DUR-1, DUR-4."""
        if store.durability == "memory":
            return
        await store.commit(
            [CreateSession(ROW), *SESSION_WRITES, AddUsage(USAGE), PutResponse(RESPONSE), AppendAudit(AUDITED)]
        )
        await store.renew("one", until=100)
        lease = await store.acquire(KEY, "one", now=0)
        before = await store.load(KEY)

        again = await self.reopen(store)

        assert before
        assert await again.load(KEY) == before
        assert await again.events(KEY, 0, 10) == [_event(2)]
        assert await again.unfinished() == [KEY]
        assert await again.usage("acme") == [USAGE]
        assert await again.audit(0, 10) == [(1, AUDITED)]
        assert await again.response("acme", RESPONSE.route, RESPONSE.idempotency_key) == RESPONSE
        assert (await again.acquire(KEY, "two", now=100)).token > lease.token
        await again.close()

    async def test_deletions_survive_a_restart(self, store: Store) -> None:
        if store.durability == "memory":
            return
        await store.commit([CreateSession(ROW), *SESSION_WRITES])
        lease = await store.acquire(KEY, "one", now=0)
        await store.commit([DeleteSession(KEY)])

        again = await self.reopen(store)

        await self.test_a_session_that_was_never_created_does_not_exist(again)
        await again.commit([CreateSession(ROW)])
        assert await again.load(KEY) == StoredSession(ROW, (), (), (), (), (), 1, 0, 0)
        assert (await again.acquire(KEY, "one", now=0)).token > lease.token
        await again.close()

    async def test_a_read_only_store_reads_what_another_process_commits(self, store: Store) -> None:
        if store.durability == "memory":
            return
        await store.commit([CreateSession(ROW), PutRequest(KEY, REQUEST), AddUsage(USAGE), PutResponse(RESPONSE)])
        await store.commit([AppendMessages(KEY, MESSAGES), AppendEvents(KEY, _events(1, 2)), AppendAudit(AUDITED)])
        lease = await store.acquire(KEY, "one", now=0)
        reader = self.attach(store)
        await reader.open(read_only=True)

        await store.commit([AppendEvents(KEY, _events(3, 3))], lease)

        assert await reader.load(KEY) == await store.load(KEY)
        assert await reader.events(KEY, 0, 10) == list(_events(1, 3))
        assert await reader.log_bounds(KEY) == (EPOCH, 1, 3)
        assert await reader.request(KEY, "r1") == REQUEST
        assert await reader.usage("acme") == [USAGE]
        assert await reader.response("acme", RESPONSE.route, RESPONSE.idempotency_key) == RESPONSE
        assert await reader.audit(0, 10) == [(1, AUDITED)]
        assert await reader.load(SessionKey("acme", "s2")) is None
        await reader.close()
        await store.commit([AppendEvents(KEY, _events(4, 4))], lease)

    async def test_a_read_only_store_can_be_opened_while_no_process_has_it_open(self, store: Store) -> None:
        if store.durability == "memory":
            return
        await store.commit([AppendAudit(AUDITED)])
        await store.close()
        reader = self.attach(store)

        await reader.open(read_only=True)

        assert await reader.audit(0, 10) == [(1, AUDITED)]
        await reader.close()

    async def test_a_read_only_store_rejects_every_other_call(self, store: Store) -> None:
        if store.durability == "memory":
            return
        reader = self.attach(store)
        await reader.open(read_only=True)

        for call in (
            reader.ping(),
            reader.renew("one", 1),
            reader.acquire(KEY, "one", 0),
            reader.release(Lease(KEY, 1)),
            reader.commit([CreateSession(ROW)]),
            reader.forget_responses(1),
        ):
            with pytest.raises(StoreUnavailable):
                await call

        await reader.close()
        assert await store.load(KEY) is None

    async def test_opening_read_only_does_not_create_a_store(self, make_store: Callable[[], Store]) -> None:
        store = make_store()

        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.open(read_only=True)

    # -- any sequence of calls -----------------------------------------------------------------------------------------

    async def test_any_sequence_of_calls_agrees_with_a_simple_model(self, make_store: Callable[[], Store]) -> None:
        counts = Counts()
        reopen = self.reopen

        class Machine(StoreMachine):
            def __init__(self) -> None:
                super().__init__(make_store(), reopen, counts)

        effort = settings(max_examples=25, stateful_step_count=30, deadline=None)
        # In a thread, because the machine runs an event loop of its own.
        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=effort)

        counts.check()

    async def _loaded(self, store: Store, part: Callable[[StoredSession], T], key: SessionKey = KEY) -> T:
        loaded = await store.load(key)
        assert loaded
        return part(loaded)
