"""Exceptions that reach the outside of the application, answered with an error body (HTTP-2)."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmdc_gateway.errors import Unavailable
from cmdc_gateway.web.errors import as_gateway_error, error_response


class ExceptionMiddleware:
    """ASGI middleware inside CORS, so that every error response has a JSON body and the CORS headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            if started:
                raise
            # uvicorn cancels requests when it exits, and would answer them with a plain-text 500.
            await error_response(Unavailable("the server is stopping", retry_after=5))(scope, receive, send)
        except Exception as failure:
            error = as_gateway_error(failure)
            if started:  # too late for an error response: the broken connection tells the client
                raise
            await error_response(error)(scope, receive, send)
