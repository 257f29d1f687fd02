"""A well-behaved client beside misbehaving ones, in a separate process so that the test's own load does not delay it.

It prompts over a WebSocket, measures the acknowledgment times, and checks that no event is missing. As a program, it runs
until its standard input closes and then prints its results.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from cmdc_testkit.streams import conversation, names

# Stays below the message rate that WS-7 allows per connection.
_PAUSE_SECONDS = 0.06


@dataclass(slots=True)
class Neighbour:
    """`async with Neighbour(port, session_id, origin) as neighbour:` runs the client; results are available afterwards.

    `took` are the durations of its actions in seconds, `runs` is the number of runs it saw completely.
    """

    port: int
    session_id: str
    origin: str
    took: list[float] = field(default_factory=list[float])
    runs: int = 0
    _process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        arguments = (f"{self.port}", self.session_id, self.origin)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cmdc_testkit.neighbour", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n", "its first run completed"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None, "it was entered"
        output, _ = await self._process.communicate(b"")  # None would not close its standard input
        assert self._process.returncode == 0, "the well-behaved client was affected"
        self.took, self.runs = json.loads(output)


async def _talk(port: int, session_id: str, origin: str) -> None:
    leave = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    took: list[float] = []
    seq = 0
    async with conversation(port, session_id, origin=origin) as talk:
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
