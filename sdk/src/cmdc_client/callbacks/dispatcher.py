"""Dispatches calls to tools: verifies, deduplicates, runs and responds. It is independent of the HTTP server."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Final

from cmdc_client.callbacks.arguments import ArgumentError
from cmdc_client.callbacks.response_cache import Key, Response, ResponseCache
from cmdc_client.callbacks.serialization import NotSerializable, to_json
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
"""The longest request body, in bytes."""

MAX_RESPONSE: Final = 256 * 1024
"""The longest response body that the gateway accepts, in bytes."""

_MAX_ERROR: Final = 2000

log = logging.getLogger("cmdc_client.callbacks")


class CallDispatcher:
    """Runs the calls of these tools.

    A call that has started runs to completion even if its caller disconnects; when it is sent again, it is answered from
    the cache.
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
        """Raises ValueError if the secret is invalid."""
        check_secret(secret)
        self._tools = tools
        self._secret = secret
        self._tolerance = tolerance_seconds
        self._now = now
        # A timestamp is valid from one tolerance before its time to one after it, inclusive.
        self._cache = ResponseCache(2 * tolerance_seconds + 1, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def dispatch(self, headers: Headers, body: bytes) -> Response:
        """Return the response to a POST with these headers and this body."""
        try:
            call = verify_callback(self._secret, headers, body, tolerance_seconds=self._tolerance, now=self._now)
        except MalformedCall as error:
            return error_response(400, str(error))
        except CallbackRejected as error:
            return error_response(401, str(error))
        # With the body: another gateway may use the same call id for a different call.
        key = call.call_id, hashlib.sha256(body).digest()
        is_new, response = self._cache.claim(key)
        if is_new:
            task = asyncio.create_task(self._run(key, call), name=f"cmdc-tool {call.tool_name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.wrap_future(response)

    async def aclose(self) -> None:
        """Cancel the calls that run in this event loop. A function that runs in a thread is not interrupted."""
        loop = asyncio.get_running_loop()
        for task in (running := [task for task in self._tasks if task.get_loop() is loop]):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, key: Key, call: CallbackCall) -> None:
        try:
            response = await self._respond(call)
        except BaseException:
            self._cache.abandon(key, error_response(503, "the program that serves this tool is shutting down"))
            raise
        self._cache.complete(key, response)

    async def _respond(self, call: CallbackCall) -> Response:
        tool = self._tools.get(call.tool_name)
        if tool is None:
            return _tool_error(f"unknown tool {call.tool_name!r}")
        try:
            body = to_json({"result": await _result(tool, call)})
        except (ToolError, ArgumentError) as error:
            return _tool_error(str(error))
        except NotSerializable as error:
            return _tool_error(f"the result of the tool is not JSON: {error}")
        except Exception as error:
            log.exception("the tool %r failed", tool.name)
            return _tool_error(f"the tool failed: {type(error).__name__}: {error}")
        if len(body) > MAX_RESPONSE:
            return _tool_error(f"the result of the tool is longer than {MAX_RESPONSE} bytes")
        return Response(200, body)


def error_response(status: int, message: str) -> Response:
    """Return a response with an error message."""
    return Response(status, to_json({"error": message}))


async def _result(tool: Tool, call: CallbackCall) -> object:
    arguments = tool.bind(call)
    try:
        return await tool.run(arguments)
    except SystemExit as error:  # a tool must not end the program that serves it
        raise RuntimeError(f"SystemExit: {error}") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ToolError("the tool was cancelled") from None  # by itself, not by `aclose`


def _tool_error(message: str) -> Response:
    text = message.encode(errors="replace").decode().replace("\0", "\ufffd")
    return error_response(200, text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR - 1]}…")
