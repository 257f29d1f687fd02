"""`callback_app`: who is answered what, and that no call is run twice."""

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
from cmdc_client.callbacks.desk import MAX_ANSWER, MAX_BODY, Desk
from cmdc_client.callbacks.memory import Memory, Response
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

SECRET = new_secret()


class Bench:
    """Tools that tell what became of them, and wait where they are told to."""

    def __init__(self) -> None:
        self.tools = Tools()
        self.ran: list[str] = []
        self.threads: set[str] = set()
        self.open = asyncio.Event()
        self.began = asyncio.Event()
        for function in (self.note, self.wait, self.fail, self.refuse, self.quit, self.cancel, self.give, self.stop):
            self.tools.tool(function)

    def note(self, text: str) -> str:
        """Note it."""
        self.ran.append(text)
        self.threads.add(threading.current_thread().name)
        return text

    async def wait(self, text: str) -> str:
        """Wait for the door to open."""
        self.ran.append(text)
        self.began.set()
        await self.open.wait()
        return text

    def fail(self) -> None:
        """Fail."""
        raise LookupError("no such thing")

    def refuse(self) -> None:
        """Refuse."""
        raise ToolError("it is closed on Sundays")

    def quit(self) -> None:
        """End the program."""
        raise SystemExit(3)

    async def stop(self) -> None:
        """End the program."""
        raise SystemExit(3)

    async def cancel(self) -> None:
        """Be cancelled by oneself."""
        raise asyncio.CancelledError

    def give(self, what: str) -> Any:
        """Give back something odd."""
        return {"set": {1}, "null": None, "long": "x" * MAX_ANSWER, "next": StopIteration(), "half": "\ud800"}[what]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def request(
    tool: str, call_id: str = "call_1", *, at: float | None = None, secret: str = SECRET, **args: Any
) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a call, signed."""
    body = json.dumps({"callId": call_id, "toolName": tool, "args": args, "sessionId": "demo"}).encode()
    return sign(secret, call_id, int(time.time() if at is None else at), body), body


@asynccontextmanager
async def talking(app: AsgiApp) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tools") as client:
        yield client


async def call(app: AsgiApp, tool: str, call_id: str = "call_1", **args: Any) -> tuple[int, Any]:
    headers, body = request(tool, call_id, **args)
    async with talking(app) as client:
        answer = await client.post(f"/{tool}", headers=headers, content=body)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


async def test_a_signed_call_is_run_and_answered(bench: Bench) -> None:
    app = callback_app(bench.tools, secret=SECRET)

    assert await call(app, "note", text="hä") == (200, {"result": "hä"})
    assert bench.ran == ["hä"]


async def test_a_function_that_is_not_async_is_run_in_a_thread(bench: Bench) -> None:
    await call(callback_app(bench.tools, secret=SECRET), "note", text="a")

    assert bench.threads == {"cmdc-tool"}


@pytest.mark.parametrize(
    ("tool", "args", "error"),
    [
        ("note", {"text": 1}, "args.text must be a string, not 1"),
        ("note", {}, "args.text is missing"),
        ("nothing", {}, "there is no tool 'nothing' here"),
        ("refuse", {}, "it is closed on Sundays"),
        ("fail", {}, "the tool failed: LookupError: no such thing"),
        ("quit", {}, "the tool failed: RuntimeError: SystemExit: 3"),
        ("stop", {}, "the tool failed: RuntimeError: SystemExit: 3"),
        ("cancel", {}, "the tool was cancelled"),
        ("give", {"what": "set"}, "the result of the tool is no JSON: a set has no JSON"),
        ("give", {"what": "next"}, "the result of the tool is no JSON: a StopIteration has no JSON"),
        ("give", {"what": "half"}, "the result of the tool is no JSON: it holds half of a surrogate pair"),
        ("give", {"what": "long"}, f"the result of the tool is longer than {MAX_ANSWER} bytes"),
        ("give", {"what": "?"}, "the tool failed: KeyError: '?'"),
    ],
)
async def test_what_goes_wrong_is_a_sentence_for_the_model(
    bench: Bench, tool: str, args: dict[str, Any], error: str
) -> None:
    status, answer = await call(callback_app(bench.tools, secret=SECRET), tool, **args)

    assert (status, list(answer)) == (200, ["error"])
    assert answer["error"].startswith(error)
    assert "Traceback" not in answer["error"]


async def test_the_traceback_of_a_failure_is_logged_here_and_only_here(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "cmdc_client.callbacks"):
        await call(callback_app(bench.tools, secret=SECRET), "fail")
        await call(callback_app(bench.tools, secret=SECRET), "refuse")

    [record] = caplog.records
    assert record.getMessage() == "the tool 'fail' failed"
    assert record.exc_info is not None


async def test_a_result_of_nothing_is_null(bench: Bench) -> None:
    assert await call(callback_app(bench.tools, secret=SECRET), "give", what="null") == (200, {"result": None})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda: {"webhook-signature": ""}, "the call is not signed: it has no webhook-signature"),
        (lambda: {"webhook-signature": "v1,AAAA"}, "no signature of this call is right"),
        (lambda: {"webhook-id": "call_2"}, "no signature of this call is right"),
        (lambda: {"webhook-timestamp": "1"}, "no signature of this call is right"),
        (lambda: request("note", at=time.time() - 1000, text="a")[0], "the call was signed 10"),
        (lambda: request("note", secret=new_secret(), text="a")[0], "no signature of this call is right"),
    ],
    ids=["no signature", "a wrong one", "another id", "another time", "too long ago", "another secret"],
)
async def test_what_is_not_signed_now_and_with_the_secret_is_refused(
    bench: Bench, change: Callable[[], dict[str, str]], sentence: str
) -> None:
    headers, body = request("note", text="a")
    app = callback_app(bench.tools, secret=SECRET)

    async with talking(app) as client:
        answer = await client.post("/note", headers={**headers, **change()}, content=body)

    assert answer.status_code == 401
    assert answer.json()["error"].startswith(sentence)
    assert bench.ran == []


async def test_what_is_signed_and_no_call_is_a_bad_request(bench: Bench) -> None:
    async with talking(callback_app(bench.tools, secret=SECRET)) as client:
        answer = await client.post("/", headers=sign(SECRET, "call_1", int(time.time()), b"[]"), content=b"[]")

    assert answer.status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_tool_is_called_with_post(bench: Bench, method: str) -> None:
    async with talking(callback_app(bench.tools, secret=SECRET)) as client:
        answer = await client.request(method, "/note")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_body_is_read_no_further_than_its_limit(bench: Bench) -> None:
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
    await callback_app(bench.tools, secret=SECRET)(scope, receive, send)

    assert sent[0]["status"] == 413
    assert read == MAX_BODY + 65536


async def test_a_secret_that_is_none_is_noticed_at_once(bench: Bench) -> None:
    with pytest.raises(ValueError, match="a secret is whsec_"):
        callback_app(bench.tools, secret="")


# -- once --------------------------------------------------------------------------------------------------------------


async def test_a_call_that_comes_again_is_answered_again_and_not_run_again(bench: Bench) -> None:
    app = callback_app(bench.tools, secret=SECRET)

    answers = [await call(app, "note", text="a") for _ in range(3)]

    assert answers == [(200, {"result": "a"})] * 3
    assert bench.ran == ["a"]


async def test_a_failure_is_remembered_like_a_result(bench: Bench) -> None:
    ran: list[int] = []

    @bench.tools.tool
    def count() -> None:
        """Count."""
        ran.append(1)
        raise ToolError(f"for the {len(ran)}. time")

    app = callback_app(bench.tools, secret=SECRET)

    assert [await call(app, "count") for _ in range(2)] == [(200, {"error": "for the 1. time"})] * 2


async def test_a_call_that_comes_again_while_it_runs_waits_for_the_same_answer(bench: Bench) -> None:
    app = callback_app(bench.tools, secret=SECRET)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        calls = [group.create_task(call(app, "wait", text="a")) for _ in range(20)]
        await bench.began.wait()
        await asyncio.sleep(0)
        bench.open.set()

    assert [task.result() for task in calls] == [(200, {"result": "a"})] * 20
    assert bench.ran == ["a"]


async def test_a_call_whose_caller_left_runs_to_its_end_and_its_answer_is_kept(bench: Bench) -> None:
    app = callback_app(bench.tools, secret=SECRET)
    first = asyncio.create_task(call(app, "wait", text="a"))
    await bench.began.wait()

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.open.set()

    assert await call(app, "wait", text="a") == (200, {"result": "a"})
    assert bench.ran == ["a"]


async def test_another_call_with_the_same_id_is_another_call(bench: Bench) -> None:
    """A gateway of another make may count its calls anew in each session."""
    app = callback_app(bench.tools, secret=SECRET)

    assert await call(app, "note", text="a") == (200, {"result": "a"})
    assert await call(app, "note", text="b") == (200, {"result": "b"})


async def test_different_calls_run_at_the_same_time(bench: Bench) -> None:
    barrier = threading.Barrier(40)

    @bench.tools.tool
    def meet(who: int) -> int:
        """Wait for all the others."""
        barrier.wait(timeout=10)
        return who

    app = callback_app(bench.tools, secret=SECRET)

    answers = await asyncio.gather(*(call(app, "meet", f"call_{who}", who=who) for who in range(40)))

    assert answers == [(200, {"result": who}) for who in range(40)]


async def test_calls_that_are_cut_off_by_the_end_are_told_so_and_forgotten(bench: Bench) -> None:
    desk = Desk(bench.tools, SECRET)
    waiting = asyncio.create_task(desk.answer(*request("wait", text="a")))
    await bench.began.wait()

    await desk.aclose()

    response = await waiting
    assert (response.status, json.loads(response.body)) == (503, {"error": "the program of this tool is stopping"})
    bench.open.set()
    again = await desk.answer(*request("wait", text="a"))
    assert (again.status, json.loads(again.body)) == (200, {"result": "a"})


# -- memory ------------------------------------------------------------------------------------------------------------


def remembered(memory: Memory, *names: str) -> list[str]:
    """Which of these calls the memory knows; those it does not are answered, and so known from now on."""
    known: list[str] = []
    for name in names:
        state, _ = memory.claim((name, b""))
        if state == "known":
            known.append(name)
        else:
            memory.settle((name, b""), Response(200, b"12345"))
    return known


def test_answers_are_remembered_for_so_long() -> None:
    now = 0.0
    memory = Memory(600, clock=lambda: now)
    remembered(memory, "a")

    now = 599.0
    assert remembered(memory, "a") == ["a"]
    now = 600.0
    assert remembered(memory, "a") == []


@pytest.mark.parametrize("bounds", [{"max_answers": 2}, {"max_bytes": 14}])
def test_no_more_answers_are_remembered_than_so_many(bounds: dict[str, Any]) -> None:
    memory = Memory(600, **bounds)
    remembered(memory, "a", "b", "c")

    assert len(memory) == 2
    assert remembered(memory, "b", "c") == ["b", "c"]


def test_a_call_that_runs_is_not_forgotten() -> None:
    now = 0.0
    memory = Memory(600, max_answers=1, clock=lambda: now)
    memory.claim(("running", b""))

    remembered(memory, "a", "b")
    now = 10_000.0

    assert memory.claim(("running", b""))[0] == "known"


async def test_an_answer_outlives_every_timestamp_that_it_could_come_again_with(bench: Bench) -> None:
    """A call that is signed 299 seconds into the future may come again 598 seconds later."""
    now = 10_000.0
    desk = Desk(bench.tools, SECRET, now=lambda: now, clock=lambda: now)
    headers, body = request("note", at=now + 299, text="a")

    async def status_at(time: float) -> int:
        nonlocal now
        now = time
        return (await desk.answer(headers, body)).status

    assert [await status_at(time) for time in (10_000.0, 10_598.0, 10_599.0, 10_600.0)] == [200, 200, 200, 401]
    assert bench.ran == ["a"]


# -- in other applications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["fastapi", "starlette", "alone"])
def test_it_can_be_mounted(bench: Bench, framework: str) -> None:
    app: Any = callback_app(bench.tools, secret=SECRET)
    if framework == "fastapi":
        around = FastAPI()
        around.mount("/tools", app)
        app = around
    elif framework == "starlette":
        app = Starlette(routes=[Mount("/tools", app)])

    with TestClient(app) as client:
        headers, body = request("note", text="a")
        answers = [client.post("/tools/note", headers=headers, content=body) for _ in range(2)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"result": "a"})] * 2
    assert bench.ran == ["a"]


def test_it_can_be_one_route(bench: Bench) -> None:
    app = Starlette(routes=[Route("/callbacks", callback_app(bench.tools, secret=SECRET))])

    with TestClient(app) as client:
        headers, body = request("note", text="a")
        assert client.post("/callbacks", headers=headers, content=body).json() == {"result": "a"}


def test_it_does_not_speak_websocket(bench: Bench) -> None:
    from starlette.websockets import WebSocketDisconnect

    with (
        TestClient(callback_app(bench.tools, secret=SECRET)) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/"),
    ):
        pass
