"""Tools as an ASGI application, to mount in one's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from cmdc_client.callbacks.desk import MAX_BODY, Desk, refusal
from cmdc_client.callbacks.memory import Response
from cmdc_client.callbacks.tools import Tools
from cmdc_client.signatures import TOLERANCE_SECONDS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MAX_HEADERS: Final = 100


def callback_app(tools: Tools, *, secret: str, tolerance_seconds: float = TOLERANCE_SECONDS) -> AsgiApp:
    """An ASGI application that answers the calls of these tools, for FastAPI, Starlette, or alone under any server.

        app.mount("/tools", callback_app(tools, secret=secret))

    It takes a POST under any path: which tool is meant is in the body, where it is signed. What is not signed with the
    `secret`, or not within `tolerance_seconds`, is answered 401.

    A call that comes again is answered from the memory of this process. With several worker processes, each has its own.
    Raises ValueError if the secret is none.
    """
    return _CallbackApp(Desk(tools, secret, tolerance_seconds=tolerance_seconds))


class _CallbackApp:
    """A class, for a function would be taken for a handler of requests where it is made a Starlette route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                if (response := await _answer(self._desk, scope, receive)) is not None:
                    await _send(send, response)
            case "lifespan":
                await _lifespan(self._desk, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1003})
            case kind:
                raise ValueError(f"this application does not speak {kind!r}")


async def _answer(desk: Desk, scope: MutableMapping[str, Any], receive: Receive) -> Response | None:
    if scope["method"] != "POST":
        return refusal(405, "a tool is called with POST")
    raw: list[tuple[bytes, bytes]] = list(scope["headers"])
    if len(raw) > _MAX_HEADERS:
        return refusal(431, f"the request has more than {_MAX_HEADERS} headers")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return refusal(413, f"the body is longer than {MAX_BODY} bytes")
        if not message.get("more_body", False):
            break
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    return await desk.answer(headers, bytes(body))


async def _send(send: Send, response: Response) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(response.body)).encode())]
    if response.status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _lifespan(desk: Desk, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await desk.aclose()
    await send({"type": "lifespan.shutdown.complete"})
