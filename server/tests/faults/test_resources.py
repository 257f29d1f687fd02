"""Tasks, readers, connections and files are released once they are no longer needed."""

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
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, wait_until, wait_until_idle
from websockets.asyncio.client import connect

SLOW = script({"text": ["w "] * 1000, "delayMs": 5})


@pytest.fixture
def quick_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle sessions are evicted quickly."""
    monkeypatch.setattr(registry, "_MAINTENANCE_SECONDS", 0.02)
    monkeypatch.setattr(registry, "IDLE_AFTER_MS", 50)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with in_process_gateway(tmp_path, store=SqliteStore(tmp_path / "gateway.db")) as served:
        yield served


@dataclass(frozen=True)
class Resources:
    """The resources of this process. Of open files, only sockets and pipes count."""

    tasks: tuple[str, ...]
    sessions: int
    readers: int
    connections: int
    streams: int
    sockets_and_pipes: int

    @classmethod
    def of(cls, served: InProcessGateway) -> "Resources":
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
        with suppress(FileNotFoundError):  # the descriptor of this listing
            found.append(str(file.readlink()))
    return found


async def initial_resources(served: InProcessGateway) -> Resources:
    """Measure once the audit log has recorded the initial keys, which it does in a task."""
    await wait_until(lambda: "AuditLog._write" not in Resources.of(served).tasks)
    return Resources.of(served)


async def wait_until_released(served: InProcessGateway, base: Resources) -> None:
    """Wait until the resources are those of `base`."""
    now = Resources.of(served)
    for _ in range(100):
        if now == base:
            return
        await asyncio.sleep(0.05)
        now = Resources.of(served)
    assert now == base


async def use_session(served: InProcessGateway, receiver: Receiver, number: int) -> None:
    """Create, use and delete a session in one of six ways."""
    async with served.client() as client:
        talk = await Conversation.begin(
            client, tools=["shell", "ask_user"], approval={"tools": [], "timeoutMs": 60_000}
        )
        tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        await talk.post("tools", tool)
        url = f"ws://127.0.0.1:{served.port}{talk.path}/ws"
        match number % 6:
            case 0:  # its run ends
                await talk.run("hello")
            case 1:  # aborted while text streams
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
            case 3:  # deleted while an approval with a timeout and a question are pending
                asking = ("ask_user", {"question": "?"})
                async with Watcher(talk) as watcher:
                    await talk.prompt(script(calling(asking, ("shell", {"command": "true"}))))
                    await watcher.until("ask_user")
            case 4:  # a WebSocket that closes, and one that is dropped
                async with connect(url, additional_headers={"X-API-Key": KEY}, proxy=None) as socket:
                    await socket.send('{"action": "prompt", "text": "hello"}')
                    await socket.recv()
                    async with connect(url, additional_headers={"X-API-Key": KEY}, proxy=None) as other:
                        other.transport.abort()
            case _:  # aborted while a tool does not respond
                async with Watcher(talk) as watcher:
                    await talk.prompt(script(calling(("t", {}))))
                    await watcher.until("tool_execution_start")
                    await talk.post("abort")
        assert (await client.delete(talk.path)).status_code == 200


@pytest.mark.timeout(120)
async def test_deleted_sessions_leave_no_resources_behind(served: InProcessGateway) -> None:
    """SSE-9, EP-delete."""
    async with Receiver() as receiver:
        base = await initial_resources(served)
        for _ in range(2):
            receiver.released.clear()
            await asyncio.gather(*(use_session(served, receiver, number) for number in range(24)))
            receiver.released.set()
            await wait_until_released(served, base)
    assert served.gateway.registry.active == 0


@pytest.mark.usefixtures("quick_eviction")
async def test_an_idle_session_is_evicted_and_restored_completely(served: InProcessGateway) -> None:
    """DUR-1, SSE-5, SSE-6."""
    async with Receiver() as receiver, served.client() as client:
        talk = await Conversation.begin(client, tools=["read_file"], metadata={"a": "b"})
        tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        await talk.post("tools", tool)
        first = await talk.run(script(calling(("t", {}))))
        paths = ("/stats", "/messages", "/tools", "")
        before = [(await talk.get(path)).json() for path in paths]
        await wait_until_evicted(served)

        after = [(await talk.get(path)).json() for path in paths]
        for info in (before[-1], after[-1]):
            info.pop("uptimeMs")
        assert after == before
        await wait_until_evicted(served)
        assert await talk.events(first[0].data["requestId"]) == first
        await wait_until_evicted(served)
        async with Watcher(talk) as watcher:
            assert names(await talk.run(script(calling(("t", {})))))[-1] == "agent_end"
            await watcher.until("agent_end", 2)
            assert audit(await record_session(talk, watcher)) == []


@pytest.mark.usefixtures("quick_eviction")
async def test_a_session_with_a_reader_or_an_open_run_is_not_evicted(served: InProcessGateway) -> None:
    """SSE-9, APP-1."""
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
            await wait_until_evicted(served, besides=1)
            assert not watcher.disconnected.is_set()


@pytest.mark.usefixtures("quick_eviction")
async def test_requests_that_race_with_an_eviction_succeed(served: InProcessGateway) -> None:
    """DUR-5: they never hang or return a 5xx."""
    async with served.client() as client:
        talk = await Conversation.begin(client)
        accepted: list[str] = []
        for number in range(40):
            accepted.append(await talk.prompt(f"number {number}"))
            await asyncio.sleep(0.04 + 0.001 * (number % 40))
        await wait_until_idle(talk)
        assert audit(await record_session(talk, accepted=accepted)) == []


async def wait_until_evicted(served: InProcessGateway, besides: int = 0) -> None:
    await wait_until(lambda: served.gateway.registry.active == besides)


async def test_an_idle_stream_uses_at_most_two_tasks(served: InProcessGateway) -> None:
    """SSE-9: and none after it was closed."""
    async with served.client(limits=httpx.Limits(max_connections=None)) as client:
        talk = await Conversation.begin(client)
        await talk.run("hello")
        base = len(asyncio.all_tasks())
        watchers = [Watcher(talk) for _ in range(50)]
        await asyncio.gather(*(watcher.resume() for watcher in watchers))
        for watcher in watchers:
            await watcher.until("agent_end")

        grown = len(asyncio.all_tasks()) - base - len(watchers)  # each watcher has a task of its own
        for watcher in watchers:
            await watcher.__aexit__(None, None, None)
        await wait_until(lambda: len(asyncio.all_tasks()) <= base)
    assert grown <= 2 * len(watchers)
    assert served.gateway.heartbeats.streams == 0
