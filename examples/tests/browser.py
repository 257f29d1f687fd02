"""A headless Chromium, driven over its DevTools protocol with what the tests have anyway.

It has a profile of its own, finds no name but loopback, and ends with the block that started it.
"""

from __future__ import annotations

import asyncio
import base64
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

_PATIENCE = 40.0


def installed() -> str | None:
    """Where Chromium is: CMDC_CHROMIUM says it, or the PATH."""
    return os.environ.get("CMDC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page. `requests` are those it has made, `complaints` what its console says of errors."""

    def __init__(self, line: ClientConnection) -> None:
        self.requests: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self._line = line
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def open(self, address: str) -> None:
        """Go to a page, and wait until it is loaded: what is asked while one page gives way to the next has no answer."""
        self._loaded.clear()
        answer = await self.command("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        async with asyncio.timeout(_PATIENCE):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await self.command("Runtime.evaluate", **given)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str, *, within: float = _PATIENCE) -> Any:
        """Wait until a JavaScript expression holds; gives its value, and says what the page shows if it never does."""
        try:
            async with asyncio.timeout(within):
                while not (value := await self.evaluate(condition)):  # noqa: ASYNC110 - the page is another process
                    await asyncio.sleep(0.02)
                return value
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{shown}\n{self.complaints}") from None

    async def picture(self, file: Path) -> None:
        """Save what the page looks like as a PNG."""
        answer = await self.command("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(answer["data"]))

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol; gives its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._line.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(_PATIENCE):
            return await answer

    async def listen(self) -> None:
        """Take in what Chromium says, until it ends."""
        with suppress(ConnectionClosed):
            async for message in self._line:
                self._take(json.loads(message))
        for answer in self._answers.values():
            answer.set_exception(AssertionError("Chromium has ended"))

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
    """An empty tab of a Chromium of our own."""
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
            async with connect(await _address(chromium, Path(profile), log), max_size=None) as line:
                tab = Tab(line)
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
                os.killpg(chromium.pid, signal.SIGKILL)  # its helpers too: it has a process group of its own
            await chromium.wait()


async def _address(chromium: asyncio.subprocess.Process, profile: Path, log: Path) -> str:
    """The DevTools address of its first tab."""
    port = profile / "DevToolsActivePort"
    async with asyncio.timeout(_PATIENCE):
        while not (port.exists() and len(port.read_text().splitlines()) == 2):
            if chromium.returncode is not None:
                said = await asyncio.to_thread(log.read_text, errors="replace")
                raise RuntimeError(f"Chromium did not start: {said[-2000:]}")
            await asyncio.sleep(0.05)
    number, path = port.read_text().splitlines()
    async with connect(f"ws://127.0.0.1:{number}{path}") as browser:
        await browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(await browser.recv())["result"]["targetInfos"]
    [tab] = [target["targetId"] for target in targets if target["type"] == "page"]
    return f"ws://127.0.0.1:{number}/devtools/page/{tab}"
