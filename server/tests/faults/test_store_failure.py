"""DUR-5, EVT-8: a store that fails: no 2xx and no event without a commit, and recovery without a restart."""

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
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, retry_while_unavailable, wait_until, whole_log


@dataclass
class FaultyGateway:
    """A gateway whose store can be made to fail."""

    served: InProcessGateway
    client: httpx.AsyncClient
    store: Store
    faults: Faults


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyGateway]:
    inner: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "gateway.db")
    store, faults = faulty(inner)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(in_process_gateway(tmp_path, store=store))
        client = await stack.enter_async_context(served.client())
        yield FaultyGateway(served, client, inner, faults)
        faults.down = False
        faults.refuse = lambda _: None


def appends(name: str) -> Callable[[Write], bool]:
    """Return a function that tells whether a write adds an event of this name."""
    return lambda write: isinstance(write, AppendEvents) and name in [event.name for event in write.events]


async def wait_until_available(talk: Conversation) -> None:
    """Wait until the session accepts requests again; it tries the store four times per second."""
    await retry_while_unavailable(lambda: talk.post("abort"))


async def test_while_the_store_is_down_nothing_is_accepted(gateway: FaultyGateway, receiver: Receiver) -> None:
    """DUR-5: every request returns 503 with Retry-After, also /readyz but not /healthz, and works again afterwards."""
    talk = await Conversation.begin(gateway.client)
    await talk.run("hello")
    sleeping = await Conversation.begin(gateway.client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}

    gateway.faults.down = True
    refused = [
        await gateway.client.post("/v1/sessions", json={"model": "scripted:x"}),
        await talk.post("prompt", {"text": "lost"}),
        await talk.post("prompt", {"text": "lost"}, Idempotency_Key="again"),
        await talk.post("tools", tool),
        await sleeping.post("prompt", {"text": "lost"}),
        await sleeping.get("/events"),
        await gateway.client.delete(talk.path),
        await gateway.client.get("/v1/sessions"),
        await gateway.client.get("/readyz"),
    ]
    alive = await gateway.client.get("/healthz")
    gateway.faults.down = False
    await wait_until_available(talk)
    await talk.post("prompt", {"text": "kept"}, Idempotency_Key="again")
    await talk.run("kept")
    await sleeping.run("kept")

    assert [answer.status_code for answer in refused] == [503] * len(refused)
    assert {answer.json()["error"] for answer in refused} == {"unavailable"}
    assert all(answer.headers["retry-after"].isdecimal() for answer in refused)
    assert alive.status_code == 200
    assert (await gateway.client.get("/readyz")).status_code == 200
    assert (await talk.get("/tools")).json() == {"tools": []}
    assert [message["content"] for message in await talk.messages() if message["role"] == "user"] == [
        "hello",
        "kept",
        "kept",
    ]
    assert audit(await record_session(talk)) == []


@pytest.mark.parametrize("event", ["message_delta", "tool_calls", "tool_execution_end", "agent_end"])
async def test_a_run_whose_commit_fails_once_ends_with_an_error(
    gateway: FaultyGateway, receiver: Receiver, event: str
) -> None:
    """EVT-8: with `error` and `agent_abort`; the queue continues, readers stay connected, and no call executes twice."""
    talk = await Conversation.begin(gateway.client)
    tool = {"name": "count", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", tool)
    gateway.faults.refuse = once(appends(event), StoreUnavailable("once"))
    prompt = script({"text": ["so ", "far"], "toolCalls": [{"name": "count"}], "delayMs": 60}, {"text": ["end"]})

    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(prompt), await talk.prompt("next")]
        aborted = await watcher.until("agent_abort")
        ended = await watcher.until("agent_end")
        calls = [call.body["callId"] for call in receiver.calls]
        record = await record_session(talk, watcher, accepted=accepted, executed=calls)

        assert not watcher.disconnected.is_set(), "readers stay connected"
    assert audit(record) == []
    assert (aborted["requestId"], aborted["reason"]) == (accepted[0], "error")
    assert ended["requestId"] == accepted[1]
    assert gateway.faults.refused == 1


async def test_no_reader_receives_an_event_before_its_commit(gateway: FaultyGateway) -> None:
    """EVT-8: an event whose commit fails is never shown."""
    talk = await Conversation.begin(gateway.client)
    await talk.run("before")
    end = (await talk.info())["cursor"]
    async with Watcher(talk) as watcher:
        await watcher.until("agent_end")

        gateway.faults.open.clear()
        prompting = asyncio.create_task(talk.post("prompt", {"text": "never"}))
        await gateway.faults.waiting.wait()
        page = (await gateway.client.get(f"{talk.path}/events", headers={"Accept": "application/json"})).json()
        async with Watcher(talk) as late:
            await late.until("agent_end")
            assert (await talk.info())["cursor"] == page["latest"] == end
            assert late.events == watcher.events
        gateway.faults.down = True
        gateway.faults.open.set()
        refused = await prompting
        gateway.faults.down = False
        await wait_until_available(talk)

        await talk.run("after")
        await watcher.until("agent_end", 2)
        assert audit(await record_session(talk, watcher)) == []
    assert refused.status_code == 503
    assert "never" not in "".join(f"{event.data}" for event in watcher.events)


async def test_events_of_a_commit_that_reported_a_failure_are_shown(gateway: FaultyGateway) -> None:
    """EVT-7, EVT-8: readers receive the log that the store has."""
    talk = await Conversation.begin(gateway.client)
    left = ["once"]
    gateway.faults.lose_answer = lambda writes: bool(any(map(appends("message_delta"), writes)) and left and left.pop())
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script({"text": ["one ", "two ", "three"], "delayMs": 20}))]
        aborted = await watcher.until("agent_abort")
        await talk.run("next")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert aborted["reason"] == "error"


async def test_an_approval_whose_decision_was_not_stored_stays_pending(gateway: FaultyGateway) -> None:
    """DUR-5: the same decision succeeds later."""
    talk = await Conversation.begin(gateway.client, tools=["shell"])
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("shell", {"command": "echo x >> ran.txt"}))))
        approval_id = (await watcher.until("approval_required"))["approvalId"]

        gateway.faults.down = True
        refused = [await talk.post("approve", {"approvalId": approval_id}) for _ in range(3)]
        gateway.faults.down = False
        approved = await retry_while_unavailable(lambda: talk.post("approve", {"approvalId": approval_id}))
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, decisions={approval_id: "approved"})) == []
    assert [answer.status_code for answer in refused] == [503] * 3
    assert approved.status_code == 200
    workspace = gateway.served.gateway.registry.services.policy.workspace.root
    assert (workspace / "ran.txt").read_text() == "x\n"


@pytest.mark.parametrize("when", ["before the timeout", "at the timeout"])
async def test_an_approval_expires_though_the_store_failed(gateway: FaultyGateway, when: str) -> None:
    """APP-1, DUR-5."""
    timeout_ms = 1500 if when == "before the timeout" else 300
    talk = await Conversation.begin(gateway.client, tools=["shell"], approval={"tools": [], "timeoutMs": timeout_ms})
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("shell", {"command": "true"}))))
        approval_id = (await watcher.until("approval_required"))["approvalId"]
        gateway.faults.down = True
        if when == "before the timeout":
            assert (await talk.post("approve", {"approvalId": approval_id})).status_code == 503
        else:
            await wait_until(lambda: gateway.faults.refused > 0)
        gateway.faults.down = False

        resolved = await watcher.until("approval_resolved")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher)) == []
    assert resolved["status"] == "expired"


async def test_a_question_stays_pending_while_the_store_fails(gateway: FaultyGateway) -> None:
    """DUR-5, ASK-1."""
    talk = await Conversation.begin(gateway.client, tools=["ask_user"])
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("ask_user", {"question": "?"}))))
        ref = (await watcher.until("ask_user"))["ref"]
        gateway.faults.down = True
        refused = await talk.post("respond", {"ref": ref, "response": "42"})
        gateway.faults.down = False
        await until_recovered(talk, ref)
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, answers={ref: "42"})) == []
    assert refused.status_code == 503


async def until_recovered(talk: Conversation, ref: str) -> None:
    await retry_while_unavailable(lambda: talk.post("respond", {"ref": ref, "response": "42"}))


async def test_many_sessions_recover_after_the_store_was_down(gateway: FaultyGateway) -> None:
    """DUR-5, EVT-8: each active run fails, and each log is complete."""
    talks = [await Conversation.begin(gateway.client) for _ in range(20)]
    slow = script({"text": ["tick "] * 2000, "delayMs": 2})
    watchers = [Watcher(talk) for talk in talks]
    async with AsyncExitStack() as stack:
        for talk, watcher in zip(talks, watchers, strict=True):
            await stack.enter_async_context(watcher)
            await talk.prompt(slow)
        for watcher in watchers:
            await watcher.until("message_delta")

        gateway.faults.down = True
        await wait_until(lambda: gateway.faults.refused >= len(talks))
        gateway.faults.down = False

        for talk, watcher in zip(talks, watchers, strict=True):
            assert (await watcher.until("agent_abort"))["reason"] == "error"
            assert audit(await record_session(talk, watcher)) == []
        assert names(await talks[0].run("hi"))[-1] == "agent_end"


async def test_an_unexpected_error_of_a_commit_ends_the_run_but_not_the_session(gateway: FaultyGateway) -> None:
    """EVT-2."""
    talk = await Conversation.begin(gateway.client)
    gateway.faults.refuse = once(appends("message_delta"), ZeroDivisionError("a defect"))
    async with Watcher(talk) as watcher:
        await talk.prompt("one two")
        aborted = await watcher.until("agent_abort")
        ended = await talk.run("three")

        await watcher.until("agent_end")
        assert audit(await record_session(talk, watcher)) == []
    assert (aborted["reason"], names(ended)[-1]) == ("error", "agent_end")


async def test_a_gateway_that_lost_a_session_stops_writing_to_it(gateway: FaultyGateway) -> None:
    """DUR-1: it drops the run, ends the streams, and returns 503."""
    talk = await Conversation.begin(gateway.client)
    async with Watcher(talk) as watcher:
        await talk.prompt(script({"text": ["tick "] * 5000, "delayMs": 2}))
        await watcher.until("message_delta", 3)
        key = SessionKey("default", talk.id)
        registry_ = gateway.served.gateway.registry
        await gateway.store.renew("the other gateway", registry_.services.clock() + 60_000)
        await _take_over(gateway.store, key, registry_.services.owner)
        async with asyncio.timeout(10):
            await watcher.disconnected.wait()

        refused = [await talk.post("prompt", {"text": "hello"}), await talk.get(), await talk.get("/events")]
        stored = await gateway.store.events(key, 0, 10_000)
    assert watcher.ended_cleanly
    assert [answer.status_code for answer in refused] == [503] * 3
    assert registry_.active == 0
    assert [(str(event.cursor), event.data.decode()) for event in stored] == [
        (event.id, event.raw) for event in watcher.events
    ], "the other gateway continues where these readers are"


async def _take_over(store: Store, key: SessionKey, owner: str) -> None:
    """Acquire a session as another gateway, after the lease of its owner has expired."""
    await store.renew(owner, 0)
    await store.acquire(key, "the other gateway", 1)


async def test_a_request_during_which_the_lease_is_lost_returns_503(gateway: FaultyGateway) -> None:
    """DUR-5."""
    talk = await Conversation.begin(gateway.client)
    await talk.run("hello")

    def lost(writes: Sequence[Write]) -> Exception | None:
        return LeaseLost("another has it") if any(isinstance(write, AppendEvents) for write in writes) else None

    gateway.faults.refuse = lost
    refused = await talk.post("prompt", {"text": "lost"})
    gateway.faults.refuse = lambda _: None
    await talk.run("kept")

    assert refused.status_code == 503
    assert audit(await record_session(talk)) == []


@pytest.fixture
def quick_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle sessions are evicted quickly."""
    monkeypatch.setattr(registry, "_MAINTENANCE_SECONDS", 0.02)
    monkeypatch.setattr(registry, "IDLE_AFTER_MS", 50)


@pytest.mark.usefixtures("quick_eviction")
async def test_maintenance_continues_after_a_store_failure(gateway: FaultyGateway) -> None:
    """DUR-5: idle sessions are evicted again."""
    gateway.faults.down = True
    await wait_until(lambda: gateway.faults.failed >= 3)
    gateway.faults.down = False
    talk = await Conversation.begin(gateway.client)
    await talk.run("hello")

    await wait_until(lambda: gateway.served.gateway.registry.active == 0)
    assert (await whole_log(talk))[-1].name == "agent_end"


async def test_a_session_retries_a_full_disk_a_few_times_per_second(gateway: FaultyGateway) -> None:
    """DUR-5: it does not retry continuously."""
    talk = await Conversation.begin(gateway.client)
    async with Watcher(talk) as watcher:
        await talk.prompt(script({"text": ["tick "] * 1000, "delayMs": 2}))
        await watcher.until("message_delta")
        before = asyncio.get_running_loop().time()
        gateway.faults.refuse = lambda _: StoreUnavailable("the disk is full")
        await wait_until(lambda: gateway.faults.refused >= 4, within=20)
        gateway.faults.refuse = lambda _: None
        took = asyncio.get_running_loop().time() - before
        await watcher.until("agent_abort")

        assert audit(await record_session(talk, watcher)) == []
    assert took > 0.5


async def test_a_request_that_waits_for_a_commit_returns_503_when_the_gateway_stops(gateway: FaultyGateway) -> None:
    """DUR-5: it does not hang."""
    talk = await Conversation.begin(gateway.client)
    await talk.run("hello")
    gateway.faults.open.clear()
    prompting = asyncio.create_task(talk.post("prompt", {"text": "late"}))
    await gateway.faults.waiting.wait()

    await gateway.served.gateway.registry.close()

    async with asyncio.timeout(5):
        answer = await prompting
    gateway.faults.open.set()
    assert answer.status_code == 503


async def test_a_session_that_is_taken_over_releases_its_reservation_of_a_budget(tmp_path: Path) -> None:
    """MTR-2: other sessions of the tenant do not wait for a model call that has ended."""
    store, faults = faulty(MemoryStore())
    budget = {"budgets": {"tenant:default": {"max_tokens": 10_000}}}
    async with in_process_gateway(tmp_path, store=store, file=budget) as served, served.client() as client:
        losing = await Conversation.begin(client, maxTokens=6_000)
        async with Watcher(losing) as watcher:
            await losing.prompt(script({"text": ["tick "] * 5000, "delayMs": 5}))
            await watcher.until("message_delta")
            faults.refuse = once(appends("message_delta"), LeaseLost("another has it"))
            await watcher.wait_until_disconnected()

        run = await (await Conversation.begin(client, maxTokens=6_000)).run("hello")

    assert names(run)[-1] == "agent_end"


async def test_a_tool_whose_registration_failed_does_not_exist(gateway: FaultyGateway, receiver: Receiver) -> None:
    """DUR-5: it is not listed, and the model cannot call it."""
    talk = await Conversation.begin(gateway.client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    gateway.faults.refuse = once(lambda write: isinstance(write, PutTool), StoreUnavailable("once"))
    refused = await talk.post("tools", tool)
    await wait_until_available(talk)

    listed = (await talk.get("/tools")).json()["tools"]
    run = await talk.run(script(calling(("t", {}))))

    assert (refused.status_code, listed) == (503, [])
    assert "error" in names(run)
    assert not receiver.calls
