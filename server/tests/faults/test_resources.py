"""Nothing is left behind: not a task, a reader, a connection or a file, once those who needed it have gone."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.sessions import registry
from cmdc_gateway.sessions.log import Reader
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import KEY, Served, serving
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, wait_until, wait_until_idle
from websockets.asyncio.client import connect

SLOW = script({"text": ["w "] * 1000, "delayMs": 5})


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are let go soon after they came to rest."""
    monkeypatch.setattr(registry, "_MAINTENANCE_SECONDS", 0.02)
    monkeypatch.setattr(registry, "IDLE_AFTER_MS", 50)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, store=SqliteStore(tmp_path / "gateway.db")) as served:
        yield served


@dataclass(frozen=True)
class Held:
    """What this process holds at a moment; of files, those that a peer or a child has the other end of."""

    tasks: tuple[str, ...]
    sessions: int
    readers: int
    connections: int
    streams: int
    sockets_and_pipes: int

    @classmethod
    def by(cls, served: Served) -> "Held":
        gc.collect()
        objects = gc.get_objects()
        return cls(
            tasks=tuple(sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())),
            sessions=sum(type(item) is Session for item in objects),
            readers=sum(type(item) is Reader for item in objects),
            connections=len(served.gateway.connections),
            streams=served.gateway.heartbeats.streams,
            sockets_and_pipes=sum(kind.startswith(("socket:", "pipe:")) for kind in _open_files()),
        )


def _open_files() -> list[str]:
    found: list[str] = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(file.readlink()))
    return found


async def before_use(served: Served) -> Held:
    """What it holds once the keys it started with are in the trail: until then there is a task that writes them."""
    await wait_until(lambda: "AuditLog._write" not in Held.by(served).tasks)
    return Held.by(served)


async def until_held(served: Served, base: Held) -> None:
    """Wait until no more is held than then."""
    now = Held.by(served)
    for _ in range(100):
        if now == base:
            return
        await asyncio.sleep(0.05)
        now = Held.by(served)
    assert now == base


async def use(served: Served, receiver: Receiver, number: int) -> None:
    """A short life of a session; `number` says which."""
    async with served.client() as client:
        talk = await Conversation.begin(
            client, tools=["shell", "ask_user"], approval={"tools": [], "timeoutMs": 60_000}
        )
        tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        await talk.post("tools", tool)
        url = f"ws://127.0.0.1:{served.port}{talk.path}/ws"
        match number % 6:
            case 0:  # read to the end
                await talk.run("hello")
            case 1:  # aborted in the middle of its text
                async with Watcher(talk) as watcher:
                    await talk.prompt(SLOW)
                    await watcher.until("message_delta")
                    await talk.post("abort")
                    await watcher.until("agent_abort")
            case 2:  # deleted while a command runs
                async with Watcher(talk) as watcher:
                    await talk.prompt(script(calling(("shell", {"command": "sleep 600"}))))
                    approval_id = (await watcher.until("approval_required"))["approvalId"]
                    await talk.post("approve", {"approvalId": approval_id})
                    await watcher.until("tool_execution_start")
            case 3:  # deleted while an approval with a time limit, and a question, wait
                asking = ("ask_user", {"question": "?"})
                async with Watcher(talk) as watcher:
                    await talk.prompt(script(calling(asking, ("shell", {"command": "true"}))))
                    await watcher.until("ask_user")
            case 4:  # readers that come and go, and one that breaks off
                async with connect(url, additional_headers={"X-API-Key": KEY}, proxy=None) as socket:
                    await socket.send('{"action": "prompt", "text": "hello"}')
                    await socket.recv()
                    async with connect(url, additional_headers={"X-API-Key": KEY}, proxy=None) as other:
                        other.transport.abort()
            case _:  # aborted while a tool does not answer
                async with Watcher(talk) as watcher:
                    await talk.prompt(script(calling(("t", {}))))
                    await watcher.until("tool_execution_start")
                    await talk.post("abort")
        assert (await client.delete(talk.path)).status_code == 200


@pytest.mark.timeout(120)
async def test_after_a_burst_of_sessions_nothing_is_left_of_them(served: Served) -> None:
    """SSE-9, EP-delete: tasks, readers, connections, heartbeats and files are back to where they were."""
    async with Receiver() as receiver:
        base = await before_use(served)
        for _ in range(3):
            receiver.released.clear()
            await asyncio.gather(*(use(served, receiver, number) for number in range(24)))
            receiver.released.set()
            await until_held(served, base)
    assert served.gateway.registry.active == 0


@pytest.mark.usefixtures("brisk")
async def test_a_session_at_rest_is_let_go_and_comes_back_with_everything(served: Served) -> None:
    """DUR-1, SSE-5, SSE-6: whoever asks for it does not notice."""
    async with Receiver() as receiver, served.client() as client:
        talk = await Conversation.begin(client, tools=["read_file"], metadata={"a": "b"})
        tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        await talk.post("tools", tool)
        first = await talk.run(script(calling(("t", {}))))
        asked = ("/stats", "/messages", "/tools", "")
        before = [(await talk.get(what)).json() for what in asked]
        await at_rest(served)

        after = [(await talk.get(what)).json() for what in asked]
        for info in (before[-1], after[-1]):
            info.pop("uptimeMs")
        assert after == before
        await at_rest(served)
        assert await talk.events(first[0].data["requestId"]) == first
        await at_rest(served)
        async with Watcher(talk) as watcher:
            assert names(await talk.run(script(calling(("t", {})))))[-1] == "agent_end"
            await watcher.until("agent_end", 2)
            assert audit(await record_session(talk, watcher)) == []


@pytest.mark.usefixtures("brisk")
async def test_a_session_that_is_read_or_waits_is_not_at_rest(served: Served) -> None:
    """SSE-9, APP-1: an open stream gets the next run, and a run that waits keeps its session."""
    async with served.client() as client:
        read, waiting, gone = [await Conversation.begin(client, tools=["ask_user"]) for _ in range(3)]
        async with Watcher(read) as watcher:
            await waiting.prompt(script(calling(("ask_user", {"question": "?"}))))
            ref = (await waiting.first("ask_user"))["ref"]
            await gone.run("hello")
            await wait_until(lambda: served.gateway.registry.active == 2)

            await read.run("hello")
            await watcher.until("agent_end")
            assert (await waiting.post("respond", {"ref": ref, "response": "y"})).status_code == 200
            await at_rest(served, besides=1)
            assert not watcher.disconnected.is_set()


@pytest.mark.usefixtures("brisk")
async def test_requests_that_meet_a_session_being_let_go_are_served(served: Served) -> None:
    """DUR-5: never a hang and never a 5xx, however close the two come."""
    async with served.client() as client:
        talk = await Conversation.begin(client)
        accepted: list[str] = []
        for number in range(60):
            accepted.append(await talk.prompt(f"number {number}"))
            await asyncio.sleep(0.04 + 0.001 * (number % 40))
        await wait_until_idle(talk)
        assert audit(await record_session(talk, accepted=accepted)) == []


async def at_rest(served: Served, besides: int = 0) -> None:
    await wait_until(lambda: served.gateway.registry.active == besides)


async def test_a_stream_that_idles_costs_one_task_or_two(served: Served) -> None:
    """SSE-9: and none of them once it has gone."""
    async with served.client(limits=httpx.Limits(max_connections=None)) as client:
        talk = await Conversation.begin(client)
        await talk.run("hello")
        base = len(asyncio.all_tasks())
        watchers = [Watcher(talk) for _ in range(50)]
        await asyncio.gather(*(watcher.resume() for watcher in watchers))
        for watcher in watchers:
            await watcher.until("agent_end")

        grown = len(asyncio.all_tasks()) - base - len(watchers)  # a watcher is a task of the test's own
        for watcher in watchers:
            await watcher.__aexit__(None, None, None)
        await wait_until(lambda: len(asyncio.all_tasks()) <= base)
    assert grown <= 2 * len(watchers)
    assert served.gateway.heartbeats.streams == 0
