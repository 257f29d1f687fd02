"""A client that keeps to the rules while others do not, in a process of its own: what slows a test down is not its delay.

It prompts over a WebSocket, times the acknowledgements, and misses no event. Run as a program it does so until its
standard input ends, and then says what it has seen.
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

# Below the rate that WS-7 allows one connection.
_PAUSE_SECONDS = 0.06


@dataclass(slots=True)
class WellBehavedClient:
    """`async with Neighbour(port, session_id, origin) as neighbour:`; afterwards it has what there was to see.

    `took` are the seconds that its actions took, `runs` is how many runs it saw from their first event to their last.
    """

    port: int
    session_id: str
    origin: str
    latencies: list[float] = field(default_factory=list[float])
    runs: int = 0
    _process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        given = (f"{self.port}", self.session_id, self.origin)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cmdc_testkit.well_behaved_client", *given),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n", "it has had its first run"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None, "it was entered"
        said, _ = await self._process.communicate(b"")  # `None` would leave its standard input open
        assert self._process.returncode == 0, "the neighbour noticed"
        self.latencies, self.runs = json.loads(said)


async def _talk(port: int, session_id: str, origin: str) -> None:
    leave = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    took: list[float] = []
    seq = 0
    async with open_websocket(port, session_id, origin=origin) as talk:
        while not leave.done():
            begun = time.perf_counter()
            taken = await talk.act("prompt", text=f"run {len(took)}")
            took.append(time.perf_counter() - begun)
            if "requestId" not in taken:
                raise AssertionError(taken)
            events = await talk.until("agent_end")
            if [event.seq for event in events] != list(range(seq + 1, seq + 1 + len(events))):
                raise AssertionError([event.id for event in events])
            if names(events)[:2] != ["prompt_received", "agent_start"]:
                raise AssertionError(names(events))
            seq += len(events)
            if len(took) == 1:
                sys.stdout.write("ready\n")
                sys.stdout.flush()
            await asyncio.sleep(_PAUSE_SECONDS)
    sys.stdout.write(json.dumps([took, len(took)]))


if __name__ == "__main__":
    asyncio.run(_talk(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
