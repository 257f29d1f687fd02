"""Experiment 2: streams resumed over a network that cuts connections at a random byte, delays, splits and goes silent."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.conversations import Conversation, script
from cmdc_testkit.events import ReceivedEvent, json_object, websocket_event
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.proxy import ConnectionFault, FaultProxy
from cmdc_testkit.watchers import Watcher, whole_log
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, WebSocketException

CUTS_PER_SESSION = 250
READERS = 3  # per transport
IDLE_TIMEOUT_SECONDS = 0.5
WORDS = ["a ", "bc ", "é", "\r\n", "\u2028", "\N{GRINNING FACE}", '"quoted" ', "x" * 300]


class Network:
    """Chooses a fault for each connection, and none while `calm`."""

    def __init__(self, rng: random.Random) -> None:
        self.disabled = False
        self.faults: Counter[str] = Counter()
        self._rng = rng

    def choose(self) -> ConnectionFault:
        rng = self._rng
        if self.disabled:
            return ConnectionFault()
        how = rng.choices(("close", "reset", "silence"), (10, 10, 1))[0]
        self.faults[how] += 1
        return ConnectionFault(
            after=int(rng.expovariate(1 / 1_500)) + 1,
            how=how,
            latency=rng.choice((0, 0, 0.002)),
            slices=rng.choice((0, 0, 400)),
        )


async def read_sse(talk: Conversation, until: Callable[[list[ReceivedEvent]], bool]) -> list[ReceivedEvent]:
    """Read a session's event stream, reconnecting whenever the connection is lost."""
    watcher = Watcher(talk, idle_timeout=IDLE_TIMEOUT_SECONDS)
    try:
        while not until(watcher.events):
            with suppress(httpx.TransportError):
                await watcher.resume()
            while not until(watcher.events) and not watcher.disconnected.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await watcher.disconnected.wait()
    finally:
        await watcher.__aexit__(None, None, None)
    return watcher.events


async def read_socket(port: int, session_id: str, until: Callable[[list[ReceivedEvent]], bool]) -> list[str]:
    """Read a session over WebSockets in the same way; return the messages byte for byte."""
    texts: list[str] = []
    events: list[ReceivedEvent] = []
    while not until(events):
        after = events[-1].id if events else "start"
        url = f"ws://127.0.0.1:{port}/v1/sessions/{session_id}/ws?after={after}"
        with suppress(OSError, EOFError, TimeoutError, WebSocketException, InvalidHandshake):
            async with connect(
                url, additional_headers={"X-API-Key": KEY}, proxy=None, open_timeout=1, close_timeout=0.1
            ) as socket:
                while not until(events):
                    async with asyncio.timeout(IDLE_TIMEOUT_SECONDS):
                        text = await socket.recv()
                    assert isinstance(text, str)
                    texts.append(text)
                    events.append(websocket_event(json_object(text)))
    return texts


async def cut_session(served: InProcessGateway, network: Network, rng: random.Random, cuts: int) -> tuple[int, int]:
    """Read a session over bad connections while it runs; return the number of cuts and of events received."""
    async with served.client() as direct, FaultProxy(served.port, network.choose) as proxy:
        talk = await Conversation.begin(direct)
        ended: list[str] = []

        def complete(events: list[ReceivedEvent]) -> bool:
            return bool(ended and events) and events[-1].id == ended[0]

        url = f"http://127.0.0.1:{proxy.port}"
        async with httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": KEY}, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as through:
            proxied = Conversation(through, talk.id)
            sse_readers = [asyncio.create_task(read_sse(proxied, complete)) for _ in range(READERS)]
            websocket_readers = [
                asyncio.create_task(read_socket(proxy.port, talk.id, complete)) for _ in range(READERS)
            ]
            while proxy.cuts < cuts:
                await talk.run(script({"text": rng.choices(WORDS, k=60), "delayMs": rng.choice((0, 1))}))
            network.disabled = True
            ended.append((await talk.info())["cursor"])
            async with asyncio.timeout(60):
                streams = await asyncio.gather(*sse_readers)
                sockets = await asyncio.gather(*websocket_readers)
        network.disabled = False
        log = await whole_log(talk)
    raw = [(event.id, event.name, event.raw) for event in log]
    for events in streams:
        assert [(event.id, event.name, event.raw) for event in events] == raw, "SSE delivers the log"
    messages = [f'{{"event":"{event.name}","data":{event.raw},"id":"{event.id}"}}' for event in log]
    for received in sockets:
        assert received == messages, "WebSockets deliver the log"
    return proxy.cuts, len(log) * (len(streams) + len(sockets))


@pytest.mark.timeout(180)
async def test_readers_on_cut_connections_receive_exactly_the_log(tmp_path: Path, experiment: Experiment) -> None:
    """SSE-6, SSE-9, WS-2, EVT-6, EVT-7."""
    rng = experiment.random
    wanted = experiment.trials(short=250, long=5_000)
    network = Network(rng)
    cuts = events = 0
    unhandled: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(f"{context}"))
    async with in_process_gateway(tmp_path, heartbeat_ms=1000) as served:
        while cuts < wanted:
            cut, delivered = await cut_session(served, network, rng, min(CUTS_PER_SESSION, wanted - cuts))
            cuts += cut
            events += delivered
    experiment.record("cuts", cuts)
    experiment.record("faults", dict(network.faults))
    experiment.record("events delivered", events)
    experiment.record("lost, repeated, reordered or changed", 0)
    gc.collect()
    assert unhandled == [], "no exception was unhandled"
