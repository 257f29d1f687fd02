"""Where calls come in, over whatever HTTP: looked at, remembered, run, answered. It knows no sockets."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Final

from cmdc_client.callbacks.encoding import NotJson, dumps
from cmdc_client.callbacks.kinds import Unfit
from cmdc_client.callbacks.memory import Key, Memory, Response
from cmdc_client.callbacks.tools import Tool, ToolError, Tools
from cmdc_client.signatures import (
    TOLERANCE_SECONDS,
    CallbackCall,
    CallbackRejected,
    Headers,
    MalformedCall,
    check_secret,
    verify_callback,
)

MAX_BODY: Final = 1024 * 1024
MAX_ANSWER: Final = 256 * 1024
"""The gateway takes no longer ones."""

_MAX_SENTENCE: Final = 2000

log = logging.getLogger("cmdc_client.callbacks")


class Desk:
    """Answers the calls of these tools.

    A call that has begun is run to its end, whether or not anybody still waits for it: when it is sent again, its answer
    is there.
    """

    def __init__(
        self,
        tools: Tools,
        secret: str,
        *,
        tolerance_seconds: float = TOLERANCE_SECONDS,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError if the secret is none."""
        check_secret(secret)
        self._tools = tools
        self._secret = secret
        self._tolerance = tolerance_seconds
        self._now = now
        # A timestamp is good from this long before its time to this long after it, both ends included.
        self._memory = Memory(2 * tolerance_seconds + 1, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, headers: Headers, body: bytes) -> Response:
        """The answer to a POST with these headers and this body."""
        try:
            call = verify_callback(self._secret, headers, body, tolerance_seconds=self._tolerance, now=self._now)
        except MalformedCall as rejected:
            return refusal(400, str(rejected))
        except CallbackRejected as rejected:
            return refusal(401, str(rejected))
        key = call.call_id, hashlib.sha256(body).digest()
        state, answer = self._memory.claim(key)
        if state == "new":
            task = asyncio.create_task(self._run(key, call), name=f"cmdc-tool {call.tool_name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.wrap_future(answer)

    async def aclose(self) -> None:
        """Cancel the calls that run in this event loop. What is in a thread ends when it ends."""
        loop = asyncio.get_running_loop()
        for task in (running := [task for task in self._tasks if task.get_loop() is loop]):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, key: Key, call: CallbackCall) -> None:
        try:
            response = await self._respond(call)
        except BaseException:
            self._memory.drop(key, refusal(503, "the program of this tool is stopping"))
            raise
        self._memory.settle(key, response)

    async def _respond(self, call: CallbackCall) -> Response:
        tool = self._tools.get(call.tool_name)
        if tool is None:
            return _failed(f"there is no tool {call.tool_name!r} here")
        try:
            body = dumps({"result": await _result(tool, call)})
        except (ToolError, Unfit) as error:
            return _failed(str(error))
        except NotJson as error:
            return _failed(f"the result of the tool is no JSON: {error}")
        except Exception as error:
            log.exception("the tool %r failed", tool.name)
            return _failed(f"the tool failed: {type(error).__name__}: {error}")
        if len(body) > MAX_ANSWER:
            return _failed(f"the result of the tool is longer than {MAX_ANSWER} bytes")
        return Response(200, body)


def refusal(status: int, sentence: str) -> Response:
    """An answer to a request that is no call."""
    return Response(status, dumps({"error": sentence}))


async def _result(tool: Tool, call: CallbackCall) -> object:
    bound = tool.bind(call)
    try:
        return await tool.run(bound)
    except SystemExit as error:
        raise RuntimeError(f"SystemExit: {error}") from None  # a tool must not end the program that serves it
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ToolError("the tool was cancelled") from None  # by itself: nobody wants this program to stop


def _failed(sentence: str) -> Response:
    text = sentence.encode(errors="replace").decode().replace("\0", "�")
    return refusal(200, text if len(text) <= _MAX_SENTENCE else f"{text[: _MAX_SENTENCE - 1]}…")
