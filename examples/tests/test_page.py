"""The page of example 09 and the gateway's reference page, in a real browser that can reach loopback only."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from browser import Tab, browsing, installed
from cmdc_testkit.gateways import KEY, InProcessGateway
from programs import EXAMPLES, command, environ

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

WORDS = "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture
async def tab() -> AsyncGenerator[Tab]:
    """An empty tab of a new browser."""
    program = installed()
    if program is None:
        pytest.fail("Chromium is not installed: run apt-get install chromium, or set CMDC_CHROMIUM to its path")
    async with browsing(program) as tab:
        yield tab


@asynccontextmanager
async def page_of(url: str) -> AsyncGenerator[str]:
    """Start the server of the example against the gateway at `url`; yield the URL of the page."""
    [example] = EXAMPLES.glob("09_*")
    process = await asyncio.create_subprocess_exec(
        *command(example, ""), env=environ(url, KEY), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None, "stdout is a pipe"
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Open http://"), line
        yield line.split()[1]
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def proxy(gateway: InProcessGateway, *, limit: int, then: Callable[[], Awaitable[bool]]) -> AsyncGenerator[str]:
    """A TCP proxy to the gateway; yields its URL.

    After `limit` bytes of an event stream's body it awaits `then`: True continues the connection, False drops it.
    """
    serving: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        left = sys.maxsize
        while data := await source.read(4096):
            if b"text/event-stream" in data:
                left = max(data.find(b"\r\n\r\n"), 0) + limit
            target.write(data[:left])
            await target.drain()
            if len(data) >= left:
                if not await then():
                    return
                target.write(data[left:])
                left = sys.maxsize
            left -= len(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        with closing(upstream_writer):
            pumps = [
                asyncio.create_task(pump(reader, upstream_writer)),
                asyncio.create_task(pump(upstream_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in pumps:
                    each.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def send_prompt(tab: Tab, text: str, *, how: str) -> None:
    """Select a way to read, type the prompt and press Enter, as a user does."""
    await tab.until("!document.querySelector('button').disabled")
    await tab.evaluate(f"document.querySelector('input[value={how}]').click()")
    await tab.evaluate("document.getElementById('text').focus()")
    await tab.command("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        await tab.command(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )


def streams_of(tab: Tab) -> list[str]:
    """URLs of the event streams that the tab has opened."""
    return [request["url"] for request in tab.requests if "/events?" in request["url"]]


async def replies(tab: Tab) -> list[str]:
    """Wait until every reply is complete; return their texts."""
    await tab.until("document.querySelector('.agent') && !document.querySelector('.agent:not(.done)')")
    return await tab.evaluate("[...document.querySelectorAll('.agent')].map((element) => element.textContent)")


@pytest.mark.parametrize("how", ["eventSource", "fetch"])
async def test_the_page_shows_the_replies_of_the_agent(tab: Tab, gateway: InProcessGateway, how: str) -> None:
    """SSE-12, HTTP-10."""
    async with page_of(gateway.url) as address:
        await tab.open(address)
        await send_prompt(tab, "Hello!", how=how)
        assert await replies(tab) == ["You said: Hello!"]
        await send_prompt(tab, "<img src=x onerror=alert(1)> & more", how=how)
        assert await replies(tab) == ["You said: Hello!", "You said: <img src=x onerror=alert(1)> & more"]

    assert tab.complaints == []
    assert len(streams_of(tab)) == 2
    assert all(stream.startswith(gateway.url) and "ticket=" in stream for stream in streams_of(tab))


async def test_the_browser_never_sees_the_key(tab: Tab, gateway: InProcessGateway) -> None:
    async with page_of(gateway.url) as address:
        await tab.open(address)
        await send_prompt(tab, "Hello!", how="fetch")
        await replies(tab)

    assert KEY not in json.dumps(tab.requests)
    assert KEY not in await tab.evaluate("document.documentElement.outerHTML")


@pytest.mark.parametrize("how", ["eventSource", "fetch"])
async def test_text_is_shown_while_it_streams(tab: Tab, gateway: InProcessGateway, how: str) -> None:
    """The proxy forwards the rest of the reply only after the browser has shown the beginning."""
    shown = asyncio.Event()

    async def when_shown() -> bool:
        return await shown.wait()

    async with proxy(gateway, limit=900, then=when_shown) as url, page_of(url) as address:
        await tab.open(address)
        await send_prompt(tab, WORDS, how=how)
        beginning = await tab.until("document.querySelector('.agent')?.textContent")
        assert f"You said: {WORDS}".startswith(beginning)
        assert not beginning.endswith("twelve")
        shown.set()
        assert await replies(tab) == [f"You said: {WORDS}"]


@pytest.mark.parametrize("how", ["eventSource", "fetch"])
async def test_a_lost_stream_resumes_after_the_last_event(tab: Tab, gateway: InProcessGateway, how: str) -> None:
    """SSE-6: with a new ticket, and `after` set to the last event received."""

    async def never() -> bool:
        return False

    async with proxy(gateway, limit=900, then=never) as url, page_of(url) as address:
        await tab.open(address)
        await send_prompt(tab, WORDS, how=how)
        assert await replies(tab) == [f"You said: {WORDS}"]

    streams = [parse_qs(urlsplit(address).query) for address in streams_of(tab)]
    assert len(streams) > 1, "the stream was dropped"
    assert "after" not in streams[0]
    assert "after" in streams[-1], "at least one event arrived before a connection was dropped"
    assert len({stream["ticket"][0] for stream in streams}) == len(streams)


async def test_the_page_shows_why_a_prompt_was_rejected(tab: Tab, gateway: InProcessGateway) -> None:
    async with page_of(gateway.url) as address:
        await tab.open(address)
        await tab.until("!document.querySelector('button').disabled")
        async with gateway.client() as client:
            [session] = (await client.get("/v1/sessions")).json()["sessions"]
            await client.delete(f"/v1/sessions/{session['sessionId']}")
        await send_prompt(tab, "Is anyone there?", how="fetch")
        shown = await tab.until("document.querySelector('.error')?.textContent")

    assert "not_found" in shown


async def test_another_origin_cannot_use_the_server_of_the_page(gateway: InProcessGateway) -> None:
    async with page_of(gateway.url) as address, httpx.AsyncClient(base_url=address, trust_env=False) as other_site:
        for headers in ({}, {"Origin": "http://elsewhere.example"}):
            assert (await other_site.post("/session", json={}, headers=headers)).status_code == 403
        assert (await other_site.post("/session", json={}, headers={"Origin": address})).status_code == 200


async def test_the_reference_page_works_without_the_internet(tab: Tab, gateway: InProcessGateway) -> None:
    """HTTP-7: the page needs no key."""
    await tab.open(f"{gateway.url}/docs")
    await tab.until("document.querySelectorAll('#reference details').length > 50")
    shown = await tab.evaluate("document.body.innerText")
    assert all(name in shown for name in ("/v1/sessions/{sessionId}/prompt", "Open a WebSocket", "approval_required"))

    assert tab.complaints == []
    external = [request["url"] for request in tab.requests if not request["url"].startswith((gateway.url, "data:"))]
    assert external == []
