"""An ASGI application that serves tools, to be mounted in a web application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from cmdc_client.callbacks.dispatcher import MAX_BODY, CallDispatcher, error_response
from cmdc_client.callbacks.response_cache import Response
from cmdc_client.callbacks.tools import Tools
from cmdc_client.signatures import TOLERANCE_SECONDS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MAX_HEADERS: Final = 100


def callback_app(tools: Tools, *, secret: str, tolerance_seconds: float = TOLERANCE_SECONDS) -> AsgiApp:
    """Return an ASGI application that serves these tools, to be mounted in FastAPI or Starlette, or run by itself.

        app.mount("/tools", callback_app(tools, secret=secret))

    It accepts a POST on any path, because the signed body names the tool. A request that is not signed with the
    `secret`, or whose timestamp differs from now by more than `tolerance_seconds`, gets a 401.

    A call that is sent again is answered from a cache in memory. Each worker process has its own cache.

    Raises ValueError if the secret is invalid.
    """
    return _CallbackApp(CallDispatcher(tools, secret, tolerance_seconds=tolerance_seconds))


class _CallbackApp:
    """A class, because Starlette takes a function in a `Route` for a request handler."""

    def __init__(self, dispatcher: CallDispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                if (response := await _respond(self._dispatcher, scope, receive)) is not None:
                    await _send(send, response)
            case "lifespan":
                await _lifespan(self._dispatcher, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1003})
            case scope_type:
                raise ValueError(f"unsupported ASGI scope type {scope_type!r}")


async def _respond(dispatcher: CallDispatcher, scope: MutableMapping[str, Any], receive: Receive) -> Response | None:
    if scope["method"] != "POST":
        return error_response(405, "tools are called with POST")
    raw: list[tuple[bytes, bytes]] = list(scope["headers"])
    if len(raw) > _MAX_HEADERS:
        return error_response(431, f"the request has more than {_MAX_HEADERS} headers")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return error_response(413, f"the body is longer than {MAX_BODY} bytes")
        if not message.get("more_body", False):
            break
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    return await dispatcher.dispatch(headers, bytes(body))


async def _send(send: Send, response: Response) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(response.body)).encode())]
    if response.status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _lifespan(dispatcher: CallDispatcher, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await dispatcher.aclose()
    await send({"type": "lifespan.shutdown.complete"})
