"""How mutants are made: a function is wrapped, or what leaves the gateway is changed on its way out.

The process is thrown away afterwards, so nothing is ever put back.
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
    """Put what `around` makes of a function, method or constant in its place."""
    setattr(owner, name, around(getattr(owner, name)))


def after(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a function gives back."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: change(original(*args, **options))

    wrap(owner, name, around)


def after_waiting(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change what an asynchronous function gives back."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def changed(*args: Any, **options: Any) -> Any:
            return change(await original(*args, **options))

        return changed

    wrap(owner, name, around)


def change_arguments(owner: Any, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a function is called with, by the names of its parameters."""

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
    """Put an ASGI application before the gateway's, and let no stream go past it."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda gateway, settings: original(_no_way_past(app(gateway)), settings)

    wrap(server, "app_config", around)


def _no_way_past(app: App) -> App:
    """Take from the gateway what it has to write to a connection directly."""

    async def changed(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = extensions(replace(transport_of(scope), pusher=lambda: None))
        await app(scope, receive, send)

    return changed


@dataclass(slots=True)
class Answer:
    """An answer on its way out. `body` is its JSON, None if it is none."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    body: Any


def change_answers(route: str, change: Callable[[Answer], object], *, method: str = "GET|POST|DELETE") -> None:
    """Change whole answers on paths that match; streams go by untouched."""

    def front(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and re.fullmatch(route, scope["path"]) and re.fullmatch(method, scope["method"]):
                await app(scope, receive, _Holding(scope, send, change).send)
            else:
                await app(scope, receive, send)

        return changed

    put_before(front)


class _Holding:
    """Holds an answer back until it is whole."""

    def __init__(self, scope: Scope, send: Send, change: Callable[[Answer], object]) -> None:
        self._scope, self._send, self._change = scope, send, change
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            streams = any(value.startswith(b"text/event-stream") for _, value in message.get("headers", ()))
            self._start = None if streams else message
            if not streams:
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._let_go(self._start)

    async def _let_go(self, start: Message) -> None:
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
        body = json.loads(self._body) if self._body[:1] == b"{" else None
        answer = Answer(self._scope["method"], self._scope["path"], start["status"], headers, body)
        self._change(answer)
        content = self._body if answer.body is None else json.dumps(answer.body, ensure_ascii=False).encode()
        answer.headers["content-length"] = str(len(content))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": content, "more_body": False})


def change_streams(change: Callable[[bytes], bytes]) -> None:
    """Change the pieces of event streams."""

    def front(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not scope["path"].endswith("/events"):
                await app(scope, receive, send)
                return
            streams = False

            async def through(message: Message) -> None:
                nonlocal streams
                if message["type"] == "http.response.start":
                    streams = message["status"] == 200
                elif streams and message.get("body"):
                    message["body"] = change(message["body"])
                await send(message)

            await app(scope, receive, through)

        return changed

    put_before(front)


def change_stream_headers(change: Callable[[dict[bytes, bytes]], object]) -> None:
    """Change the headers of event streams."""

    def front(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            async def through(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 200:
                    headers = dict(message["headers"])
                    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                        change(headers)
                        message["headers"] = list(headers.items())
                await send(message)

            await app(scope, receive, through if scope["type"] == "http" else send)

        return changed

    put_before(front)


def change_frames(change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
    """Change the messages that a WebSocket sends: each becomes any number of them."""

    def front(app: App) -> App:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            async def through(message: Message) -> None:
                if message["type"] != "websocket.send":
                    await send(message)
                    return
                for sent in change(json.loads(message["text"])):
                    await send({**message, "text": json.dumps(sent, ensure_ascii=False)})

            await app(scope, receive, through if scope["type"] == "websocket" else send)

        return changed

    put_before(front)
