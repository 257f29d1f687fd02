"""DUR-5, EVT-8: a store that fails. No 2xx without a commit, no event before it, and no restart after it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.sessions import registry
from cmdc_gateway.store.errors import LeaseLost, StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_gateway.store.store import Store
from cmdc_gateway.store.writes import AppendEvents, PutTool, Write
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.faults import Faults, faulty, once
from cmdc_testkit.gateways import Served, serving
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, retry_while_unavailable, wait_until, whole_log


@dataclass
class Frail:
    """A gateway on a store that can be made to fail."""

    served: Served
    client: httpx.AsyncClient
    store: Store
    faults: Faults


@pytest.fixture(params=["memory", "sqlite"])
async def frail(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Frail]:
    inner: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "gateway.db")
    store, faults = faulty(inner)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(tmp_path, store=store))
        client = await stack.enter_async_context(served.client())
        yield Frail(served, client, inner, faults)
        faults.down = False
        faults.refuse = lambda _: None


def appends(name: str) -> Callable[[Write], bool]:
    """Whether a write adds an event of this name."""
    return lambda write: isinstance(write, AppendEvents) and name in [event.name for event in write.events]


async def until_up(talk: Conversation) -> None:
    """Wait until the session takes prompts again; it looks for its store four times a second."""
    await retry_while_unavailable(lambda: talk.post("abort"))


async def test_while_the_store_is_down_nothing_is_accepted_and_readyz_says_so(frail: Frail, receiver: Receiver) -> None:
    """DUR-5: 503 with Retry-After, never a 2xx; alive all the same; and it all works once the store does."""
    talk = await Conversation.begin(frail.client)
    await talk.run("hello")
    sleeping = await Conversation.begin(frail.client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}

    frail.faults.down = True
    refused = [
        await frail.client.post("/v1/sessions", json={"model": "scripted:x"}),
        await talk.post("prompt", {"text": "lost"}),
        await talk.post("prompt", {"text": "lost"}, Idempotency_Key="again"),
        await talk.post("tools", tool),
        await sleeping.post("prompt", {"text": "lost"}),
        await sleeping.get("/events"),
        await frail.client.delete(talk.path),
        await frail.client.get("/v1/sessions"),
        await frail.client.get("/readyz"),
    ]
    alive = await frail.client.get("/healthz")
    frail.faults.down = False
    await until_up(talk)
    await talk.post("prompt", {"text": "kept"}, Idempotency_Key="again")
    await talk.run("kept")
    await sleeping.run("kept")

    assert [answer.status_code for answer in refused] == [503] * len(refused)
    assert {answer.json()["error"] for answer in refused} == {"unavailable"}
    assert all(answer.headers["retry-after"].isdecimal() for answer in refused)
    assert alive.status_code == 200
    assert (await frail.client.get("/readyz")).status_code == 200
    assert (await talk.get("/tools")).json() == {"tools": []}
    assert [message["content"] for message in await talk.messages() if message["role"] == "user"] == [
        "hello",
        "kept",
        "kept",
    ]
    assert audit(await record_session(talk)) == []


@pytest.mark.parametrize("event", ["message_delta", "tool_calls", "tool_execution_end", "agent_end"])
async def test_a_run_whose_commit_fails_once_ends_with_an_error(frail: Frail, receiver: Receiver, event: str) -> None:
    """EVT-8: `error`, `agent_abort` with reason `error`; the session goes on, its readers stay, nothing runs twice."""
    talk = await Conversation.begin(frail.client)
    tool = {"name": "count", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", tool)
    frail.faults.refuse = once(appends(event), StoreUnavailable("once"))
    doing = script({"text": ["so ", "far"], "toolCalls": [{"name": "count"}], "delayMs": 60}, {"text": ["end"]})

    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(doing), await talk.prompt("next")]
        aborted = await watcher.until("agent_abort")
        ended = await watcher.until("agent_end")
        calls = [call.body["callId"] for call in receiver.calls]
        record = await record_session(talk, watcher, accepted=accepted, executed=calls)

        assert not watcher.disconnected.is_set(), "readers stay connected"
    assert audit(record) == []
    assert (aborted["requestId"], aborted["reason"]) == (accepted[0], "error")
    assert ended["requestId"] == accepted[1]
    assert frail.faults.refused == 1


async def test_no_reader_sees_an_event_before_the_store_has_it(frail: Frail) -> None:
    """EVT-8: over SSE, WebSocket or pages. What the store then refuses was never there, for anybody."""
    talk = await Conversation.begin(frail.client)
    await talk.run("before")
    end = (await talk.info())["cursor"]
    async with Watcher(talk) as watcher:
        await watcher.until("agent_end")

        frail.faults.open.clear()
        prompting = asyncio.create_task(talk.post("prompt", {"text": "never"}))
        await frail.faults.waiting.wait()
        page = (await frail.client.get(f"{talk.path}/events", headers={"Accept": "application/json"})).json()
        async with Watcher(talk) as late:
            await late.until("agent_end")
            assert (await talk.info())["cursor"] == page["latest"] == end
            assert late.events == watcher.events
        frail.faults.down = True
        frail.faults.open.set()
        refused = await prompting
        frail.faults.down = False
        await until_up(talk)

        await talk.run("after")
        await watcher.until("agent_end", 2)
        assert audit(await record_session(talk, watcher)) == []
    assert refused.status_code == 503
    assert "never" not in "".join(f"{event.data}" for event in watcher.events)


async def test_a_commit_whose_answer_was_lost_is_shown_all_the_same(frail: Frail) -> None:
    """EVT-7, EVT-8: the store says it failed and has it nevertheless; the log of readers is the log of the store."""
    talk = await Conversation.begin(frail.client)
    left = ["once"]
    frail.faults.lose_answer = lambda writes: bool(any(map(appends("message_delta"), writes)) and left and left.pop())
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script({"text": ["one ", "two ", "three"], "delayMs": 20}))]
        aborted = await watcher.until("agent_abort")
        await talk.run("next")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert aborted["reason"] == "error"


async def test_an_approval_that_could_not_be_written_still_waits(frail: Frail) -> None:
    """DUR-5: 503 decided nothing; the run waits on and the same approve succeeds later."""
    talk = await Conversation.begin(frail.client, tools=["shell"])
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("shell", {"command": "echo x >> ran.txt"}))))
        approval_id = (await watcher.until("approval_required"))["approvalId"]

        frail.faults.down = True
        refused = [await talk.post("approve", {"approvalId": approval_id}) for _ in range(3)]
        frail.faults.down = False
        approved = await retry_while_unavailable(lambda: talk.post("approve", {"approvalId": approval_id}))
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, decisions={approval_id: "approved"})) == []
    assert [answer.status_code for answer in refused] == [503] * 3
    assert approved.status_code == 200
    workspace = frail.served.gateway.registry.services.policy.workspace.root
    assert (workspace / "ran.txt").read_text() == "x\n"


@pytest.mark.parametrize("when", ["before its time", "at its time"])
async def test_an_approval_expires_though_the_store_failed(frail: Frail, when: str) -> None:
    """APP-1, DUR-5: a store that was down in between does not make it wait for ever."""
    timeout_ms = 1500 if when == "before its time" else 300
    talk = await Conversation.begin(frail.client, tools=["shell"], approval={"tools": [], "timeoutMs": timeout_ms})
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("shell", {"command": "true"}))))
        approval_id = (await watcher.until("approval_required"))["approvalId"]
        frail.faults.down = True
        if when == "before its time":
            assert (await talk.post("approve", {"approvalId": approval_id})).status_code == 503
        else:
            await wait_until(lambda: frail.faults.refused > 0)
        frail.faults.down = False

        resolved = await watcher.until("approval_resolved")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher)) == []
    assert resolved["status"] == "expired"


async def test_a_question_outlives_a_failing_store(frail: Frail) -> None:
    """DUR-5, ASK-1."""
    talk = await Conversation.begin(frail.client, tools=["ask_user"])
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("ask_user", {"question": "?"}))))
        ref = (await watcher.until("ask_user"))["ref"]
        frail.faults.down = True
        refused = await talk.post("respond", {"ref": ref, "response": "42"})
        frail.faults.down = False
        await until_recovered(talk, ref)
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, answers={ref: "42"})) == []
    assert refused.status_code == 503


async def until_recovered(talk: Conversation, ref: str) -> None:
    await retry_while_unavailable(lambda: talk.post("respond", {"ref": ref, "response": "42"}))


async def test_many_sessions_recover_together_after_the_store_was_away(frail: Frail) -> None:
    """DUR-5, EVT-8: each run that was active has failed by itself, each log is whole."""
    talks = [await Conversation.begin(frail.client) for _ in range(20)]
    slow = script({"text": ["tick "] * 2000, "delayMs": 2})
    watchers = [Watcher(talk) for talk in talks]
    async with AsyncExitStack() as stack:
        for talk, watcher in zip(talks, watchers, strict=True):
            await stack.enter_async_context(watcher)
            await talk.prompt(slow)
        for watcher in watchers:
            await watcher.until("message_delta")

        frail.faults.down = True
        await wait_until(lambda: frail.faults.refused >= len(talks))
        frail.faults.down = False

        for talk, watcher in zip(talks, watchers, strict=True):
            assert (await watcher.until("agent_abort"))["reason"] == "error"
            assert audit(await record_session(talk, watcher)) == []
        assert names(await talks[0].run("hi"))[-1] == "agent_end"


async def test_a_defect_in_one_commit_ends_the_run_and_not_the_session(frail: Frail) -> None:
    """EVT-2: whatever the store raises."""
    talk = await Conversation.begin(frail.client)
    frail.faults.refuse = once(appends("message_delta"), ZeroDivisionError("a defect"))
    async with Watcher(talk) as watcher:
        await talk.prompt("one two")
        aborted = await watcher.until("agent_abort")
        ended = await talk.run("three")

        await watcher.until("agent_end")
        assert audit(await record_session(talk, watcher)) == []
    assert (aborted["reason"], names(ended)[-1]) == ("error", "agent_end")


async def test_a_session_that_another_gateway_has_taken_writes_no_more(frail: Frail) -> None:
    """DUR-1: what this one would still have said is dropped, its readers are let go, its callers told 503."""
    talk = await Conversation.begin(frail.client)
    async with Watcher(talk) as watcher:
        await talk.prompt(script({"text": ["tick "] * 5000, "delayMs": 2}))
        await watcher.until("message_delta", 3)
        key = SessionKey("default", talk.id)
        registry_ = frail.served.gateway.registry
        await frail.store.renew("the other gateway", registry_.services.clock() + 60_000)
        await _steal(frail.store, key, registry_.services.owner)
        async with asyncio.timeout(10):
            await watcher.disconnected.wait()

        refused = [await talk.post("prompt", {"text": "hello"}), await talk.get(), await talk.get("/events")]
        stored = await frail.store.events(key, 0, 10_000)
    assert watcher.ended_cleanly
    assert [answer.status_code for answer in refused] == [503] * 3
    assert registry_.active == 0
    assert [(str(event.cursor), event.data.decode()) for event in stored] == [
        (event.id, event.raw) for event in watcher.events
    ], "the other one goes on from where this one's readers are"


async def _steal(store: Store, key: SessionKey, owner: str) -> None:
    """Claim a session as another gateway, once its owner has not been heard of for a while."""
    await store.renew(owner, 0)
    await store.acquire(key, "the other gateway", 1)


async def test_a_fence_that_is_lost_in_the_middle_of_a_command_is_told_to_who_asked(frail: Frail) -> None:
    """DUR-5: never a 2xx without a commit."""
    talk = await Conversation.begin(frail.client)
    await talk.run("hello")

    def lost(writes: Sequence[Write]) -> Exception | None:
        return LeaseLost("another has it") if any(isinstance(write, AppendEvents) for write in writes) else None

    frail.faults.refuse = lost
    refused = await talk.post("prompt", {"text": "lost"})
    frail.faults.refuse = lambda _: None
    await talk.run("kept")

    assert refused.status_code == 503
    assert audit(await record_session(talk)) == []


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are let go soon after they came to rest."""
    monkeypatch.setattr(registry, "_MAINTENANCE_SECONDS", 0.02)
    monkeypatch.setattr(registry, "IDLE_AFTER_MS", 50)


@pytest.mark.usefixtures("brisk")
async def test_housekeeping_outlives_a_failing_store(frail: Frail) -> None:
    """DUR-5: leases are renewed and resting sessions let go again, once the store is back."""
    frail.faults.down = True
    await wait_until(lambda: frail.faults.failed >= 3)
    frail.faults.down = False
    talk = await Conversation.begin(frail.client)
    await talk.run("hello")

    await wait_until(lambda: frail.served.gateway.registry.active == 0)
    assert (await whole_log(talk))[-1].name == "agent_end"


async def test_a_disk_that_is_full_keeps_nobody_busy(frail: Frail) -> None:
    """DUR-5: everything can be read and nothing written; the session tries again a few times a second, no more."""
    talk = await Conversation.begin(frail.client)
    async with Watcher(talk) as watcher:
        await talk.prompt(script({"text": ["tick "] * 1000, "delayMs": 2}))
        await watcher.until("message_delta")
        before = asyncio.get_running_loop().time()
        frail.faults.refuse = lambda _: StoreUnavailable("the disk is full")
        await wait_until(lambda: frail.faults.refused >= 4, within=20)
        frail.faults.refuse = lambda _: None
        took = asyncio.get_running_loop().time() - before
        await watcher.until("agent_abort")

        assert audit(await record_session(talk, watcher)) == []
    assert took > 0.5


async def test_who_waits_for_a_commit_when_the_session_is_let_go_is_told(frail: Frail) -> None:
    """DUR-5: 503 at once, and not a request that hangs."""
    talk = await Conversation.begin(frail.client)
    await talk.run("hello")
    frail.faults.open.clear()
    prompting = asyncio.create_task(talk.post("prompt", {"text": "late"}))
    await frail.faults.waiting.wait()

    await frail.served.gateway.registry.close()

    async with asyncio.timeout(5):
        answer = await prompting
    frail.faults.open.set()
    assert answer.status_code == 503


async def test_a_session_that_is_taken_over_gives_back_what_it_held_of_a_budget(tmp_path: Path) -> None:
    """MTR-2: others of the tenant are not made to wait for a model call that is no more."""
    store, faults = faulty(MemoryStore())
    budget = {"budgets": {"tenant:default": {"max_tokens": 10_000}}}
    async with serving(tmp_path, store=store, file=budget) as served, served.client() as client:
        losing = await Conversation.begin(client, maxTokens=6_000)
        async with Watcher(losing) as watcher:
            await losing.prompt(script({"text": ["tick "] * 5000, "delayMs": 5}))
            await watcher.until("message_delta")
            faults.refuse = once(appends("message_delta"), LeaseLost("another has it"))
            await watcher.wait_until_disconnected()

        run = await (await Conversation.begin(client, maxTokens=6_000)).run("hello")

    assert names(run)[-1] == "agent_end"


async def test_a_registration_that_was_refused_is_not_there(frail: Frail, receiver: Receiver) -> None:
    """DUR-5: neither in the list nor for the model."""
    talk = await Conversation.begin(frail.client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    frail.faults.refuse = once(lambda write: isinstance(write, PutTool), StoreUnavailable("once"))
    refused = await talk.post("tools", tool)
    await until_up(talk)

    listed = (await talk.get("/tools")).json()["tools"]
    run = await talk.run(script(calling(("t", {}))))

    assert (refused.status_code, listed) == (503, [])
    assert "error" in names(run)
    assert not receiver.calls
