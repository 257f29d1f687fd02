"""A headless Chromium, driven over its DevTools protocol with the installed `websockets` package.

Each browser has a temporary profile, resolves no host name, and exits with the block that started it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--window-size=1100,800", "--remote-debugging-port=0", "--no-proxy-server"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

_TIMEOUT_SECONDS = 40.0


def installed() -> str | None:
    """Path of Chromium: CMDC_CHROMIUM if set, else the first match on PATH, else None."""
    return os.environ.get("CMDC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page: `requests` are those it has sent, `complaints` the errors on its console."""

    def __init__(self, connection: ClientConnection) -> None:
        self.requests: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def open(self, address: str) -> None:
        """Navigate to a page and wait for its load event; commands sent during navigation may never be answered."""
        self._loaded.clear()
        answer = await self.command("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """Evaluate a JavaScript expression, awaiting a promise; return its value."""
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await self.command("Runtime.evaluate", **given)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str, *, within: float = _TIMEOUT_SECONDS) -> Any:
        """Wait until a JavaScript expression is truthy and return its value; on timeout, fail with the text of the page."""
        try:
            async with asyncio.timeout(within):
                while not (value := await self.evaluate(condition)):  # noqa: ASYNC110 - the browser is another process
                    await asyncio.sleep(0.02)
                return value
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{shown}\n{self.complaints}") from None

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a DevTools command; return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await answer

    async def listen(self) -> None:
        """Process messages from Chromium until it closes the connection."""
        with suppress(ConnectionClosed):
            async for message in self._connection:
                self._take(json.loads(message))
        for answer in self._answers.values():
            answer.set_exception(AssertionError("Chromium has exited"))

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"id": number, "error": error}:
                self._answers.pop(number).set_exception(AssertionError(f"{error}"))
            case {"id": number, "result": result}:
                self._answers.pop(number).set_result(result)
            case {"method": "Page.loadEventFired"}:
                self._loaded.set()
            case {"method": "Network.requestWillBeSent", "params": {"request": request}}:
                self.requests.append(request)
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.complaints.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error", **entry}}}:
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            case _:
                pass


@asynccontextmanager
async def browsing(program: str) -> AsyncGenerator[Tab]:
    """Start Chromium; yield its empty tab."""
    with tempfile.TemporaryDirectory(prefix="cmdc-chromium-", ignore_cleanup_errors=True) as profile:
        log = Path(profile) / "stderr"
        with log.open("wb") as stderr:
            chromium = await asyncio.create_subprocess_exec(
                *(program, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
                env={"PATH": os.environ["PATH"], "HOME": profile},
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            async with connect(await _address(chromium, Path(profile), log), max_size=None) as connection:
                tab = Tab(connection)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await tab.command(f"{domain}.enable")
                try:
                    yield tab
                finally:
                    await tab.command("Browser.close")
                    await chromium.wait()
                    await listening
        finally:
            with suppress(ProcessLookupError):
                os.killpg(chromium.pid, signal.SIGKILL)  # the process group includes its helper processes
            await chromium.wait()


async def _address(chromium: asyncio.subprocess.Process, profile: Path, log: Path) -> str:
    """DevTools URL of the first tab."""
    port = profile / "DevToolsActivePort"
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not (port.exists() and len(port.read_text().splitlines()) == 2):
            if chromium.returncode is not None:
                stderr = await asyncio.to_thread(log.read_text, errors="replace")
                raise RuntimeError(f"Chromium did not start: {stderr[-2000:]}")
            await asyncio.sleep(0.05)
    number, path = port.read_text().splitlines()
    async with connect(f"ws://127.0.0.1:{number}{path}") as browser:
        await browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(await browser.recv())["result"]["targetInfos"]
    [tab] = [target["targetId"] for target in targets if target["type"] == "page"]
    return f"ws://127.0.0.1:{number}/devtools/page/{tab}"
