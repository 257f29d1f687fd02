"""The operator's commands: starting the server, stopping it, killing it. Each is run by a shell."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cmdc_conformance.case import Case
from cmdc_conformance.findings import Blocked, NotExercised


class Hooks:
    """The server's life, by the commands of the target file. Raises NotExercised where one is missing."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._hooks = case.target.hooks

    def need(self, *names: str) -> None:
        """Make sure that these commands are there."""
        for name in names:
            if getattr(self._hooks, name) is None:
                raise NotExercised(f"needs a command: `{name}` in the [hooks] of the target file")

    async def kill(self) -> None:
        """By kill -9, and wait until nothing answers."""
        await self._run("kill")
        await self.gone(within=self._case.deadline)

    async def stop(self) -> asyncio.Task[None]:
        """SIGTERM; the command may go on while the server ends."""
        return asyncio.create_task(self._run("stop"))

    async def start(self) -> None:
        """Start, and wait until the server serves."""
        await self._run("start" if self._hooks.start is not None else "restart")
        await self.serves()

    async def admit(self) -> None:
        """Let the key `leaving` in."""
        await self._run("admit")

    async def revoke(self) -> None:
        """Take the key `leaving` away."""
        await self._run("revoke")

    async def again(self) -> None:
        """By kill -9, and start."""
        self.need("kill", "start")
        await self.kill()
        await self.start()

    async def serves(self) -> None:
        """Wait until the server serves. Raises Blocked."""
        try:
            async with asyncio.timeout(3 * self._case.deadline):
                while await self._status("/healthz") != 200:
                    await asyncio.sleep(0.1)
                if self._case.has("capabilities"):
                    while await self._status("/readyz") != 200:
                        await asyncio.sleep(0.05)
        except TimeoutError:
            raise Blocked(f"the server does not serve {3 * self._case.deadline:g} s after `start`") from None

    async def gone(self, *, within: float) -> None:
        """Wait until nothing answers any more. Raises Blocked."""
        try:
            async with asyncio.timeout(within):
                while await self.answers():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Blocked(f"the server still answers after {within:g} s") from None

    async def answers(self) -> bool:
        """Whether anything answers."""
        return await self._status("/healthz") is not None

    async def _status(self, path: str) -> int | None:
        with suppress(Blocked):
            return (await self._case.nobody.get(path, within=2, judged=False)).status
        return None

    async def _run(self, name: str) -> None:
        self.need(name)
        process = await asyncio.create_subprocess_shell(
            getattr(self._hooks, name), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(6 * self._case.deadline):
                status = await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            raise Blocked(f"the command `{name}` does not end: it should return when it has done its part") from None
        if status:
            raise Blocked(f"the command `{name}` failed with status {status}")
