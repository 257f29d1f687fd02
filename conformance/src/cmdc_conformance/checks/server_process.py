"""The process of the server under test, controlled with the operator's shell commands."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.findings import Blocked, NotExercised


class ServerProcess:
    """Runs the commands of [hooks] in the target file. Raises NotExercised if one is missing, Blocked if one fails."""

    def __init__(self, ctx: CheckContext) -> None:
        self._ctx = ctx
        self._hooks = ctx.target.hooks

    def require(self, *names: str) -> None:
        """Raise NotExercised unless all of these commands are defined."""
        for name in names:
            if getattr(self._hooks, name) is None:
                raise NotExercised(f"needs the command `{name}` in [hooks] of the target file")

    async def kill(self) -> None:
        """Send SIGKILL and wait until the server is gone."""
        await self._run("kill")
        await self.wait_until_gone(within=self._ctx.deadline)

    def stop(self) -> asyncio.Task[None]:
        """Send SIGTERM. The command may take as long as the server does to exit."""
        return asyncio.create_task(self._run("stop"))

    async def start(self) -> None:
        """Start the server and wait until it is ready."""
        await self._run("start" if self._hooks.start is not None else "restart")
        await self.wait_until_ready()

    async def admit(self) -> None:
        """Add the key `leaving` to the server's keys."""
        await self._run("admit")

    async def revoke(self) -> None:
        """Remove the key `leaving` from the server's keys."""
        await self._run("revoke")

    async def crash_and_restart(self) -> None:
        """Send SIGKILL, then start the server."""
        self.require("kill", "start")
        await self.kill()
        await self.start()

    async def wait_until_ready(self) -> None:
        """Wait until the server accepts requests. Raises Blocked."""
        try:
            async with asyncio.timeout(3 * self._ctx.deadline):
                while await self._status("/healthz") != 200:
                    await asyncio.sleep(0.1)
                if self._ctx.has("capabilities"):
                    while await self._status("/readyz") != 200:
                        await asyncio.sleep(0.05)
        except TimeoutError:
            raise Blocked(f"the server is not ready {3 * self._ctx.deadline:g} s after `start`") from None

    async def wait_until_gone(self, *, within: float) -> None:
        """Wait until the server no longer responds. Raises Blocked."""
        try:
            async with asyncio.timeout(within):
                while await self.responds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Blocked(f"the server still responds after {within:g} s") from None

    async def responds(self) -> bool:
        """Whether the server responds at all."""
        return await self._status("/healthz") is not None

    async def _status(self, path: str) -> int | None:
        with suppress(Blocked):
            return (await self._ctx.anonymous.get(path, within=2, monitored=False)).status
        return None

    async def _run(self, name: str) -> None:
        self.require(name)
        process = await asyncio.create_subprocess_shell(
            getattr(self._hooks, name), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(6 * self._ctx.deadline):
                status = await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            raise Blocked(f"the command `{name}` does not return") from None
        if status:
            raise Blocked(f"the command `{name}` failed with status {status}")
