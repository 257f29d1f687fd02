"""Calls callback tools.

`httpcore` is used without `httpx`: it has no redirects, proxies, `.netrc`, cookies or decompression that would have to be
turned off.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import httpcore
from standardwebhooks import Webhook

from cmdc_gateway import __version__
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.byte_limit import ByteLimitedStream
from cmdc_gateway.tools.callbacks.connector import Connect, Connector, Resolve, connect_tcp, resolve_by_system
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.callbacks.errors import ByteLimitExceeded, CallbackFailed, NotConnected
from cmdc_gateway.tools.callbacks.response import MAX_RESPONSE_BYTES, parse_result, read_body
from cmdc_gateway.tools.callbacks.url import CallbackUrl, InvalidUrl
from cmdc_gateway.tools.tool import ToolResult

# For everything that arrives on the connection: also headers, interim responses and the framing of the body.
MAX_CONNECTION_BYTES: Final = 2 * MAX_RESPONSE_BYTES
MAX_CONNECTIONS: Final = 100
RETRY_DELAYS: Final = (0.25, 0.5)


class CallbackClient:
    """Calls the callback tools of all sessions. `attempts` counts the requests."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolve: Resolve = resolve_by_system,
        connect: Connect = connect_tcp,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connector = Connector(policy, resolve, connect)
        self._clock = clock
        self._sleep = sleep
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False
        self.attempts = 0

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return self._connector.connections

    @property
    def rejections(self) -> int:
        """How many connections were not made because the address is not allowed."""
        return self._connector.rejections

    async def call(self, definition: CallbackDefinition, call: ToolCall, session_id: str) -> ToolResult:
        """Call a tool. All attempts together take at most `timeout_ms` (CB-2, CB-3)."""
        body = dumps({"callId": call.id, "toolName": call.name, "args": call.args, "sessionId": session_id})
        try:
            url = CallbackUrl.parse(definition.url)
            async with asyncio.timeout(definition.timeout_ms / 1000), self._slots:
                return await self._call_with_retries(definition, url, call.id, body)
        except TimeoutError:
            return _failed(definition, f"it did not respond within {definition.timeout_ms} ms")
        except (CallbackFailed, InvalidUrl) as error:
            return _failed(definition, str(error))

    async def aclose(self) -> None:
        """Reject new calls. Running calls end when they are cancelled."""
        self._closed = True

    async def _call_with_retries(
        self, definition: CallbackDefinition, url: CallbackUrl, call_id: str, body: bytes
    ) -> ToolResult:
        for delay in (*RETRY_DELAYS, None):
            try:
                return parse_result(await self._attempt(definition, url, call_id, body))
            except CallbackFailed as error:
                retry = error.transient and (definition.idempotent or not error.sent)
                if delay is None or not retry:
                    raise
            await self._sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, definition: CallbackDefinition, url: CallbackUrl, call_id: str, body: bytes) -> bytes:
        """Send one request, on a new connection: an idle one may turn out to be closed once the request is sent."""
        if self._closed:
            raise CallbackFailed("the server is shutting down", sent=False)
        self.attempts += 1
        try:
            stream = await self._connector.connect(url)
        except NotConnected as error:
            raise CallbackFailed(f"{url.origin}: {error}", sent=False, transient=not error.forbidden) from None
        headers = {"host": url.authority, **self._headers(definition.secret, call_id, body)}
        request = _request(url, headers, body)
        connection = httpcore.AsyncHTTP11Connection(request.url.origin, ByteLimitedStream(stream, MAX_CONNECTION_BYTES))
        try:
            return await read_body(await connection.handle_async_request(request), url)
        except ByteLimitExceeded:
            raise CallbackFailed(f"{url.origin} sent more than {MAX_CONNECTION_BYTES} bytes") from None
        except httpcore.LocalProtocolError:
            raise CallbackFailed(
                "its callId is not a valid header value, so the call was not sent", sent=False
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ssl.SSLError):
            raise CallbackFailed(f"{url.origin} closed the connection or sent invalid HTTP", transient=True) from None
        finally:
            await connection.aclose()

    def _headers(self, secret: str, call_id: str, body: bytes) -> dict[str, str]:
        now = datetime.fromtimestamp(int(self._clock()), UTC)
        return {
            "user-agent": f"cmdc-gateway/{__version__}",
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "close",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "webhook-id": call_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(call_id, now, body.decode()),
        }


def _request(url: CallbackUrl, headers: dict[str, str], body: bytes) -> httpcore.Request:
    return httpcore.Request(
        "POST",
        httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        content=body,
    )


def _failed(definition: CallbackDefinition, message: str) -> ToolResult:
    return ToolResult("error", f"the tool {definition.name!r} failed: {message}")
