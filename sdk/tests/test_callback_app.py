"""`callback_app`: its responses, and that no call is run twice."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from cmdc_client.callbacks import ToolError, Tools, callback_app, new_secret, sign
from cmdc_client.callbacks.asgi import AsgiApp
from cmdc_client.callbacks.dispatcher import MAX_BODY, MAX_RESPONSE, CallDispatcher
from cmdc_client.callbacks.response_cache import Response, ResponseCache
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

SECRET = new_secret()


class Recorder:
    """Tools that record their calls, and one that waits for an event."""

    def __init__(self) -> None:
        self.tools = Tools()
        self.ran: list[str] = []
        self.threads: set[str] = set()
        self.proceed = asyncio.Event()
        self.started = asyncio.Event()
        for function in (self.note, self.wait, self.fail, self.refuse, self.quit, self.cancel, self.give, self.stop):
            self.tools.tool(function)

    def note(self, text: str) -> str:
        """Record the text."""
        self.ran.append(text)
        self.threads.add(threading.current_thread().name)
        return text

    async def wait(self, text: str) -> str:
        """Wait for the event."""
        self.ran.append(text)
        self.started.set()
        await self.proceed.wait()
        return text

    def fail(self) -> None:
        """Fail."""
        raise LookupError("no such thing")

    def refuse(self) -> None:
        """Refuse."""
        raise ToolError("it is closed on Sundays")

    def quit(self) -> None:
        """Try to end the program."""
        raise SystemExit(3)

    async def stop(self) -> None:
        """Try to end the program."""
        raise SystemExit(3)

    async def cancel(self) -> None:
        """Cancel itself."""
        raise asyncio.CancelledError

    def give(self, what: str) -> Any:
        """Return an unusual value."""
        return {"null": None, "long": "x" * MAX_RESPONSE, "next": StopIteration(), "half": "\ud800"}[what]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def request(
    tool: str, call_id: str = "call_1", *, at: float | None = None, secret: str = SECRET, **args: Any
) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a signed call."""
    body = json.dumps({"callId": call_id, "toolName": tool, "args": args, "sessionId": "demo"}).encode()
    return sign(secret, call_id, int(time.time() if at is None else at), body), body


@asynccontextmanager
async def http_client(app: AsgiApp) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tools") as client:
        yield client


async def call(app: AsgiApp, tool: str, call_id: str = "call_1", **args: Any) -> tuple[int, Any]:
    headers, body = request(tool, call_id, **args)
    async with http_client(app) as client:
        response = await client.post(f"/{tool}", headers=headers, content=body)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


async def test_a_signed_call_is_run(recorder: Recorder) -> None:
    app = callback_app(recorder.tools, secret=SECRET)

    assert await call(app, "note", text="hä") == (200, {"result": "hä"})
    assert recorder.ran == ["hä"]


async def test_a_function_that_is_not_async_runs_in_a_thread(recorder: Recorder) -> None:
    await call(callback_app(recorder.tools, secret=SECRET), "note", text="a")

    assert recorder.threads == {"cmdc-tool"}


@pytest.mark.parametrize(
    ("tool", "args", "error"),
    [
        ("note", {"text": 1}, "args.text: Input should be a valid string, not 1"),
        ("note", {}, "args.text: Field required"),
        ("nothing", {}, "unknown tool 'nothing'"),
        ("refuse", {}, "it is closed on Sundays"),
        ("fail", {}, "the tool failed: LookupError: no such thing"),
        ("quit", {}, "the tool failed: RuntimeError: SystemExit: 3"),
        ("stop", {}, "the tool failed: RuntimeError: SystemExit: 3"),
        ("cancel", {}, "the tool was cancelled"),
        (
            "give",
            {"what": "next"},
            "the result of the tool is not JSON: Unable to serialize unknown type: <class 'StopIteration'>",
        ),
        ("give", {"what": "half"}, "the result of the tool is not JSON: it contains a lone surrogate"),
        ("give", {"what": "long"}, f"the result of the tool is longer than {MAX_RESPONSE} bytes"),
        ("give", {"what": "?"}, "the tool failed: KeyError: '?'"),
    ],
)
async def test_an_error_is_a_message_for_the_model(
    recorder: Recorder, tool: str, args: dict[str, Any], error: str
) -> None:
    status, response = await call(callback_app(recorder.tools, secret=SECRET), tool, **args)

    assert (status, list(response)) == (200, ["error"])
    assert response["error"].startswith(error)
    assert "Traceback" not in response["error"]


async def test_the_traceback_of_a_failed_tool_is_logged_and_not_sent(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "cmdc_client.callbacks"):
        await call(callback_app(recorder.tools, secret=SECRET), "fail")
        await call(callback_app(recorder.tools, secret=SECRET), "refuse")

    [record] = caplog.records
    assert record.getMessage() == "the tool 'fail' failed"
    assert record.exc_info is not None


async def test_a_result_of_none_is_null(recorder: Recorder) -> None:
    assert await call(callback_app(recorder.tools, secret=SECRET), "give", what="null") == (200, {"result": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"webhook-signature": ""}, "the call is not signed: the header webhook-signature is missing"),
        (lambda: {"webhook-signature": "v1,AAAA"}, "invalid signature"),
        (lambda: {"webhook-id": "call_2"}, "invalid signature"),
        (lambda: {"webhook-timestamp": "1"}, "invalid signature"),
        (lambda: request("note", at=time.time() - 1000, text="a")[0], "the call was signed 10"),
        (lambda: request("note", secret=new_secret(), text="a")[0], "invalid signature"),
    ],
    ids=["no signature", "wrong signature", "other id", "other timestamp", "too old", "other secret"],
)
async def test_a_call_without_a_valid_signature_is_rejected(
    recorder: Recorder, change: Callable[[], dict[str, str]], message: str
) -> None:
    headers, body = request("note", text="a")
    app = callback_app(recorder.tools, secret=SECRET)

    async with http_client(app) as client:
        response = await client.post("/note", headers={**headers, **change()}, content=body)

    assert response.status_code == 401
    assert response.json()["error"].startswith(message)
    assert recorder.ran == []


async def test_a_signed_body_that_is_not_a_call_is_a_bad_request(recorder: Recorder) -> None:
    async with http_client(callback_app(recorder.tools, secret=SECRET)) as client:
        response = await client.post("/", headers=sign(SECRET, "call_1", int(time.time()), b"[]"), content=b"[]")

    assert response.status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_method_other_than_post_is_not_allowed(recorder: Recorder, method: str) -> None:
    async with http_client(callback_app(recorder.tools, secret=SECRET)) as client:
        response = await client.request(method, "/note")

    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_body_is_read_only_up_to_the_limit(recorder: Recorder) -> None:
    read = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal read
        while read < 100 * MAX_BODY:
            read += 65536
            yield bytes(65536)

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    body = endless()
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await callback_app(recorder.tools, secret=SECRET)(scope, receive, send)

    assert sent[0]["status"] == 413
    assert read == MAX_BODY + 65536


async def test_an_invalid_secret_is_rejected_when_the_app_is_created(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="a secret must be whsec_"):
        callback_app(recorder.tools, secret="")


# -- deduplication --------------------------------------------------------------------------------------------------------------


async def test_a_repeated_call_is_answered_from_the_cache(recorder: Recorder) -> None:
    app = callback_app(recorder.tools, secret=SECRET)

    responses = [await call(app, "note", text="a") for _ in range(3)]

    assert responses == [(200, {"result": "a"})] * 3
    assert recorder.ran == ["a"]


async def test_an_error_is_cached_like_a_result(recorder: Recorder) -> None:
    ran: list[int] = []

    @recorder.tools.tool
    def count() -> None:
        """Count."""
        ran.append(1)
        raise ToolError(f"run {len(ran)}")

    app = callback_app(recorder.tools, secret=SECRET)

    assert [await call(app, "count") for _ in range(2)] == [(200, {"error": "run 1"})] * 2


async def test_a_call_that_is_repeated_while_it_runs_waits_for_the_same_response(recorder: Recorder) -> None:
    app = callback_app(recorder.tools, secret=SECRET)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        calls = [group.create_task(call(app, "wait", text="a")) for _ in range(20)]
        await recorder.started.wait()
        await asyncio.sleep(0)
        recorder.proceed.set()

    assert [task.result() for task in calls] == [(200, {"result": "a"})] * 20
    assert recorder.ran == ["a"]


async def test_a_call_whose_caller_disconnects_runs_to_completion(recorder: Recorder) -> None:
    app = callback_app(recorder.tools, secret=SECRET)
    first = asyncio.create_task(call(app, "wait", text="a"))
    await recorder.started.wait()

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    recorder.proceed.set()

    assert await call(app, "wait", text="a") == (200, {"result": "a"})
    assert recorder.ran == ["a"]


async def test_a_call_with_the_same_id_and_another_body_is_a_different_call(recorder: Recorder) -> None:
    """Another gateway may number its calls per session."""
    app = callback_app(recorder.tools, secret=SECRET)

    assert await call(app, "note", text="a") == (200, {"result": "a"})
    assert await call(app, "note", text="b") == (200, {"result": "b"})


async def test_different_calls_run_concurrently(recorder: Recorder) -> None:
    barrier = threading.Barrier(40)

    @recorder.tools.tool
    def meet(who: int) -> int:
        """Wait for all the others."""
        barrier.wait(timeout=10)
        return who

    app = callback_app(recorder.tools, secret=SECRET)

    responses = await asyncio.gather(*(call(app, "meet", f"call_{who}", who=who) for who in range(40)))

    assert responses == [(200, {"result": who}) for who in range(40)]


async def test_calls_that_a_shutdown_cancels_can_be_run_again(recorder: Recorder) -> None:
    dispatcher = CallDispatcher(recorder.tools, SECRET)
    waiting = asyncio.create_task(dispatcher.dispatch(*request("wait", text="a")))
    await recorder.started.wait()

    await dispatcher.aclose()

    response = await waiting
    assert (response.status, json.loads(response.body)) == (
        503,
        {"error": "the program that serves this tool is shutting down"},
    )
    recorder.proceed.set()
    again = await dispatcher.dispatch(*request("wait", text="a"))
    assert (again.status, json.loads(again.body)) == (200, {"result": "a"})


# -- the cache ---------------------------------------------------------------------------------------------------------


def cached(cache: ResponseCache, *names: str) -> list[str]:
    """Return which of these calls are in the cache, and add the others."""
    known: list[str] = []
    for name in names:
        is_new, _ = cache.claim((name, b""))
        if is_new:
            cache.complete((name, b""), Response(200, b"12345"))
        else:
            known.append(name)
    return known


def test_a_response_is_cached_for_a_limited_time() -> None:
    now = 0.0
    cache = ResponseCache(600, clock=lambda: now)
    cached(cache, "a")

    now = 599.0
    assert cached(cache, "a") == ["a"]
    now = 600.0
    assert cached(cache, "a") == []


@pytest.mark.parametrize("bounds", [{"max_responses": 2}, {"max_bytes": 14}])
def test_the_oldest_response_is_evicted_beyond_the_limits(bounds: dict[str, Any]) -> None:
    cache = ResponseCache(600, **bounds)
    cached(cache, "a", "b", "c")

    assert len(cache) == 2
    assert cached(cache, "b", "c") == ["b", "c"]


def test_a_running_call_is_never_evicted() -> None:
    now = 0.0
    cache = ResponseCache(600, max_responses=1, clock=lambda: now)
    cache.claim(("running", b""))

    cached(cache, "a", "b")
    now = 10_000.0

    assert cache.claim(("running", b""))[0] is False


async def test_a_response_is_cached_for_as_long_as_its_call_can_be_replayed(recorder: Recorder) -> None:
    """A call whose timestamp is 299 seconds in the future can be replayed for 598 seconds."""
    now = 10_000.0
    dispatcher = CallDispatcher(recorder.tools, SECRET, now=lambda: now, clock=lambda: now)
    headers, body = request("note", at=now + 299, text="a")

    async def status_at(seconds: float) -> int:
        nonlocal now
        now = seconds
        return (await dispatcher.dispatch(headers, body)).status

    assert [await status_at(seconds) for seconds in (10_000.0, 10_598.0, 10_599.0, 10_600.0)] == [200, 200, 200, 401]
    assert recorder.ran == ["a"]


# -- in web applications- ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["fastapi", "starlette", "alone"])
def test_the_app_can_be_mounted(recorder: Recorder, framework: str) -> None:
    app: Any = callback_app(recorder.tools, secret=SECRET)
    if framework == "fastapi":
        outer = FastAPI()
        outer.mount("/tools", app)
        app = outer
    elif framework == "starlette":
        app = Starlette(routes=[Mount("/tools", app)])

    with TestClient(app) as client:
        headers, body = request("note", text="a")
        responses = [client.post("/tools/note", headers=headers, content=body) for _ in range(2)]

    assert [(response.status_code, response.json()) for response in responses] == [(200, {"result": "a"})] * 2
    assert recorder.ran == ["a"]


def test_the_app_can_be_a_single_route(recorder: Recorder) -> None:
    app = Starlette(routes=[Route("/callbacks", callback_app(recorder.tools, secret=SECRET))])

    with TestClient(app) as client:
        headers, body = request("note", text="a")
        assert client.post("/callbacks", headers=headers, content=body).json() == {"result": "a"}


def test_the_app_rejects_websockets(recorder: Recorder) -> None:
    from starlette.websockets import WebSocketDisconnect

    with (
        TestClient(callback_app(recorder.tools, secret=SECRET)) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/"),
    ):
        pass
