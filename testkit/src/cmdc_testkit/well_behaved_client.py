"""A client that follows the protocol while others do not, in its own process so that the test does not slow it down.

It prompts over a WebSocket, measures the acknowledgements, and checks that it misses no event. As a program, it runs
until its standard input ends, and then prints its results.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from cmdc_conformance.wire.event import names

from cmdc_testkit.streams import open_websocket

# Below the rate limit of a connection (WS-7).
_PAUSE_SECONDS = 0.06


@dataclass(slots=True)
class WellBehavedClient:
    """`async with WellBehavedClient(port, session_id, origin) as client:`; on exit, the results are available.

    `latencies` are the seconds until each action was acknowledged, `runs` is the number of complete runs received.
    """

    port: int
    session_id: str
    origin: str
    latencies: list[float] = field(default_factory=list[float])
    runs: int = 0
    _process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        arguments = (f"{self.port}", self.session_id, self.origin)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cmdc_testkit.well_behaved_client", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n", "its first run has ended"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None, "it is a context manager"
        printed, _ = await self._process.communicate(b"")  # None would leave standard input open
        assert self._process.returncode == 0, "the client failed"
        self.latencies, self.runs = json.loads(printed)


async def _run(port: int, session_id: str, origin: str) -> None:
    stdin_closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    latencies: list[float] = []
    seq = 0
    async with open_websocket(port, session_id, origin=origin) as socket:
        while not stdin_closed.done():
            start = time.perf_counter()
            acknowledgement = await socket.act("prompt", text=f"run {len(latencies)}")
            latencies.append(time.perf_counter() - start)
            if "requestId" not in acknowledgement:
                raise AssertionError(acknowledgement)
            events = await socket.until("agent_end")
            if [event.seq for event in events] != list(range(seq + 1, seq + 1 + len(events))):
                raise AssertionError([event.id for event in events])
            if names(events)[:2] != ["prompt_received", "agent_start"]:
                raise AssertionError(names(events))
            seq += len(events)
            if len(latencies) == 1:
                sys.stdout.write("ready\n")
                sys.stdout.flush()
            await asyncio.sleep(_PAUSE_SECONDS)
    sys.stdout.write(json.dumps([latencies, len(latencies)]))


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
