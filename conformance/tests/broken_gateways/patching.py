"""Patching a gateway: wrapping its functions, or changing its responses on their way out.

A patch is never undone, because the process runs only one mutant.
"""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from cmdc_gateway import server
from cmdc_gateway.web.transport.handle import extensions, transport_of

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Replace a function, method or constant by `around(original)`. Raises AttributeError for an unknown name."""
    setattr(owner, name, around(getattr(owner, name)))


def after(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a function returns."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: change(original(*args, **options))

    wrap(owner, name, around)


def after_waiting(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a coroutine function returns."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def changed(*args: Any, **options: Any) -> Any:
            return change(await original(*args, **options))

        return changed

    wrap(owner, name, around)


def change_arguments(owner: Any, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arguments of a function, in a dict by parameter name."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def changed(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            bound.apply_defaults()
            change(bound.arguments)
            return original(*bound.args, **bound.kwargs)

        return changed

    wrap(owner, name, around)


def put_before(app: Callable[[App], App]) -> None:
    """Wrap the gateway's ASGI application, and make its streams send through the wrapper."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda gateway, settings: original(_without_direct_writes(app(gateway)), settings)

    wrap(server, "app_config", around)


def _without_direct_writes(app: App) -> App:
    """Remove the means by which the gateway writes to a connection directly."""

    async def changed(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = extensions(replace(transport_of(scope), pusher=lambda: None))
        await app(scope, receive, send)

    return changed


@dataclass(slots=True)
class Response:
    """A response on its way out. `body` is its parsed JSON object, or None."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    body: Any


def change_responses(route: str, change: Callable[[Response], object], *, method: str = "GET|POST|DELETE") -> None:
    """Change complete responses of routes whose path matches. Streams are not changed."""

    def wrap_app(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and re.fullmatch(route, scope["path"]) and re.fullmatch(method, scope["method"]):
                await app(scope, receive, _BufferedSend(scope, send, change).send)
            else:
                await app(scope, receive, send)

        return changed

    put_before(wrap_app)


class _BufferedSend:
    """Buffers a response until it is complete."""

    def __init__(self, scope: Scope, send: Send, change: Callable[[Response], object]) -> None:
        self._scope, self._send, self._change = scope, send, change
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            is_stream = any(value.startswith(b"text/event-stream") for _, value in message.get("headers", ()))
            self._start = None if is_stream else message
            if not is_stream:
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
        body = json.loads(self._body) if self._body[:1] == b"{" else None
        response = Response(self._scope["method"], self._scope["path"], start["status"], headers, body)
        self._change(response)
        content = self._body if response.body is None else json.dumps(response.body, ensure_ascii=False).encode()
        response.headers["content-length"] = str(len(content))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in response.headers.items()]
        await self._send({"type": "http.response.start", "status": response.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": content, "more_body": False})


def change_streams(change: Callable[[bytes], bytes]) -> None:
    """Change the chunks of event streams."""

    def wrap_app(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not scope["path"].endswith("/events"):
                await app(scope, receive, send)
                return
            is_stream = False

            async def send_changed(message: Message) -> None:
                nonlocal is_stream
                if message["type"] == "http.response.start":
                    is_stream = message["status"] == 200
                elif is_stream and message.get("body"):
                    message["body"] = change(message["body"])
                await send(message)

            await app(scope, receive, send_changed)

        return changed

    put_before(wrap_app)


def change_stream_headers(change: Callable[[dict[bytes, bytes]], object]) -> None:
    """Change the headers of event streams."""

    def wrap_app(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_changed(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 200:
                    headers = dict(message["headers"])
                    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                        change(headers)
                        message["headers"] = list(headers.items())
                await send(message)

            await app(scope, receive, send_changed if scope["type"] == "http" else send)

        return changed

    put_before(wrap_app)


def change_frames(change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
    """Change the messages that a WebSocket sends. Each may become any number of messages."""

    def wrap_app(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_changed(message: Message) -> None:
                if message["type"] != "websocket.send":
                    await send(message)
                    return
                for frame in change(json.loads(message["text"])):
                    await send({**message, "text": json.dumps(frame, ensure_ascii=False)})

            await app(scope, receive, send_changed if scope["type"] == "websocket" else send)

        return changed

    put_before(wrap_app)
