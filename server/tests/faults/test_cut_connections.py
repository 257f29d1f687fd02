"""Experiment 2: connections cut at a random byte, by a slow, slicing, resetting or silent network, and resumed."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.audit import Frame
from cmdc_testkit.conversations import Conversation, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, Served, serving
from cmdc_testkit.proxy import Fault, FaultProxy
from cmdc_testkit.watching import Watcher, whole_log
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, WebSocketException

CUTS_OF_A_SESSION = 250
READERS = 3  # of each transport
SILENCE_SECONDS = 0.5
WORDS = ["a ", "bc ", "é", "\r\n", "\u2028", "\N{GRINNING FACE}", '"quoted" ', "x" * 300]


class Network:
    """Chooses what becomes of each connection; `calm` from some moment on."""

    def __init__(self, chance: random.Random) -> None:
        self.calm = False
        self.how: Counter[str] = Counter()
        self._chance = chance

    def choose(self) -> Fault:
        chance = self._chance
        if self.calm:
            return Fault()
        how = chance.choices(("close", "reset", "silence"), (10, 10, 1))[0]
        self.how[how] += 1
        return Fault(
            after=int(chance.expovariate(1 / 1_500)) + 1,
            how=how,
            latency=chance.choice((0, 0, 0.002)),
            slices=chance.choice((0, 0, 400)),
        )


async def read_sse(talk: Conversation, until: Callable[[list[Frame]], bool]) -> list[Frame]:
    """Read a session by SSE, coming back whenever the connection is lost."""
    watcher = Watcher(talk, silence=SILENCE_SECONDS)
    try:
        while not until(watcher.frames):
            with suppress(httpx.TransportError):
                await watcher.resume()
            while not until(watcher.frames) and not watcher.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await watcher.over.wait()
    finally:
        await watcher.__aexit__(None, None, None)
    return watcher.frames


async def read_socket(port: int, session_id: str, until: Callable[[list[Frame]], bool]) -> list[str]:
    """The same by WebSocket; the messages as they came."""
    texts: list[str] = []
    frames: list[Frame] = []
    while not until(frames):
        after = frames[-1].id if frames else "start"
        url = f"ws://127.0.0.1:{port}/v1/sessions/{session_id}/ws?after={after}"
        with suppress(OSError, EOFError, TimeoutError, WebSocketException, InvalidHandshake):
            async with connect(
                url, additional_headers={"X-API-Key": KEY}, proxy=None, open_timeout=1, close_timeout=0.1
            ) as socket:
                while not until(frames):
                    async with asyncio.timeout(SILENCE_SECONDS):
                        text = await socket.recv()
                    assert isinstance(text, str)
                    texts.append(text)
                    frames.append(frame_of(text))
    return texts


def frame_of(text: str) -> Frame:
    head, _, rest = text.removeprefix('{"event":"').partition('","data":')
    data, _, cursor = rest.rpartition(',"id":"')
    return Frame(cursor.removesuffix('"}'), head, data)


async def cut_one_session(served: Served, network: Network, chance: random.Random, cuts: int) -> tuple[int, int]:
    """Read a session on bad connections while it is written; return how many were cut, and how many events came."""
    async with served.client() as direct, FaultProxy(served.port, network.choose) as proxy:
        talk = await Conversation.begin(direct)
        ended: list[str] = []

        def whole(frames: list[Frame]) -> bool:
            return bool(ended and frames) and frames[-1].id == ended[0]

        url = f"http://127.0.0.1:{proxy.port}"
        async with httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": KEY}, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as through:
            there = Conversation(through, talk.id)
            reading = [asyncio.create_task(read_sse(there, whole)) for _ in range(READERS)]
            listening = [asyncio.create_task(read_socket(proxy.port, talk.id, whole)) for _ in range(READERS)]
            while proxy.cuts < cuts:
                await talk.run(script({"text": chance.choices(WORDS, k=60), "delayMs": chance.choice((0, 1))}))
            network.calm = True
            ended.append((await talk.info())["cursor"])
            async with asyncio.timeout(60):
                frames = await asyncio.gather(*reading)
                texts = await asyncio.gather(*listening)
        network.calm = False
        log = await whole_log(talk)
    for seen in frames:
        assert seen == log, "delivered by SSE = log"
    told = [f'{{"event":"{frame.event}","data":{frame.data},"id":"{frame.id}"}}' for frame in log]
    for heard in texts:
        assert heard == told, "delivered by WebSocket = log"
    return proxy.cuts, len(log) * (len(frames) + len(texts))


@pytest.mark.timeout(180)
async def test_what_is_delivered_over_cut_connections_is_the_log(tmp_path: Path, experiment: Experiment) -> None:
    """SSE-6, SSE-9, WS-2, EVT-6, EVT-7: nothing lost, repeated, reordered or changed."""
    chance = experiment.chance
    wanted = experiment.trials(short=250, long=5_000)
    network = Network(chance)
    cuts = events = 0
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(f"{context}"))
    async with serving(tmp_path, heartbeat_ms=1000) as served:
        while cuts < wanted:
            cut, delivered = await cut_one_session(served, network, chance, min(CUTS_OF_A_SESSION, wanted - cuts))
            cuts += cut
            events += delivered
    experiment.figure("cuts", cuts)
    experiment.figure("of connections with", dict(network.how))
    experiment.figure("events delivered", events)
    experiment.figure("lost, repeated, reordered or changed", 0)
    gc.collect()
    assert complaints == [], "nobody did anything wrong"
