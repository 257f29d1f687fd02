"""Tools that live elsewhere: each call is an HTTP request to the address they were registered with (CB-1 … CB-5).

`httpcore` is used without `httpx` round it, for what it leaves out: redirects, proxies, `.netrc`, cookies and
decompression cannot be left on by mistake.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Final

import httpcore
from pydantic import JsonValue, TypeAdapter, ValidationError
from standardwebhooks import Webhook

from cmdc_gateway import __version__
from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.protocol.strict import NotStrictJson, parse_value
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.bounded_stream import BoundedStream, TooMuchRead
from cmdc_gateway.tools.connector import Connect, Connector, NotConnected, Resolve, connect_tcp, resolve_by_system
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.url import CallbackUrl, InvalidUrl

MAX_ANSWER: Final = 256 * 1024
# Of all that comes over the connection: the head, interim answers, and what the body's framing adds to it.
MAX_READ: Final = 2 * MAX_ANSWER
MAX_CONNECTIONS: Final = 100
RETRY_DELAYS: Final = (0.25, 0.5)

_MARK: Final = "whsec_"
_NEW_SIZE: Final = 32
_SIZES: Final = range(24, 65)


@dataclass(frozen=True)
class CallbackDefinition:
    """A callback tool as it was registered (CB-1)."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    url: str
    timeout_ms: int = 30_000
    requires_approval: bool = False
    idempotent: bool = False
    secret: str = field(kw_only=True, repr=False)

    def to_json(self) -> bytes:
        """What the store keeps. It holds the secret."""
        return _DEFINITION.dump_json(self)

    @staticmethod
    def from_json(raw: bytes) -> CallbackDefinition:
        """Read what `to_json` wrote. Raises ValueError."""
        try:
            return _DEFINITION.validate_json(raw, strict=True)
        except ValidationError:
            # Without its cause, which would show the secret.
            raise ValueError("the stored definition of a callback tool cannot be read") from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what was registered, without the secret: names this definition in the audit trail."""
        return sha256(_DEFINITION.dump_json(self, exclude={"secret"})).hexdigest()

    @property
    def origin(self) -> str:
        """Where the callbacks go: of the URL no more than may be shown."""
        return CallbackUrl.parse(self.url).origin

    @cached_property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            self.name,
            self.description,
            self.parameters,
            kind="callback",
            requires_approval=self.requires_approval,
            idempotent=self.idempotent,
        )


_DEFINITION: Final = TypeAdapter(CallbackDefinition)


def new_secret(randbytes: Callable[[int], bytes]) -> str:
    """A secret for a tool that was registered without one (CB-4)."""
    return _MARK + base64.b64encode(randbytes(_NEW_SIZE)).decode()


def check_secret(text: str) -> None:
    """Raise `RegistrationFailed` unless this is a secret as in Standard Webhooks. It is not repeated."""
    try:
        size = len(base64.b64decode(text.removeprefix(_MARK), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not text.startswith(_MARK) or size not in _SIZES:
        raise RegistrationFailed("secret: it must be whsec_ and the base64 of 24 to 64 bytes")


class CallbackFailed(Exception):
    """A try did not bring an answer; the sentence says why, without the URL's path and query or the secret.

    `sent` is whether the tool may have seen the call, `passing` whether another try may do better.
    """

    def __init__(self, sentence: str, *, sent: bool = True, passing: bool = False) -> None:
        super().__init__(sentence)
        self.sent = sent
        self.passing = passing


class CallbackClient:
    """Calls callback tools, for all sessions."""

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
        self.tries = 0

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._connector.connections

    @property
    def refusals(self) -> int:
        """How many times a forbidden address was not connected to."""
        return self._connector.refusals

    async def call(self, definition: CallbackDefinition, call: ToolCall, session_id: str) -> ToolResult:
        """Call the tool and wait for its answer, `timeout_ms` at most with all tries (CB-2, CB-3)."""
        body = dumps({"callId": call.id, "toolName": call.name, "args": call.args, "sessionId": session_id})
        try:
            url = CallbackUrl.parse(definition.url)
            async with asyncio.timeout(definition.timeout_ms / 1000), self._slots:
                return await self._try_and_retry(definition, url, call.id, body)
        except TimeoutError:
            return _failed(definition, f"it did not answer within {definition.timeout_ms} ms")
        except (CallbackFailed, InvalidUrl) as error:
            return _failed(definition, str(error))

    async def aclose(self) -> None:
        """Start no more calls. Calls that run are ended by cancelling them."""
        self._closed = True

    async def _try_and_retry(
        self, definition: CallbackDefinition, url: CallbackUrl, call_id: str, body: bytes
    ) -> ToolResult:
        for delay in (*RETRY_DELAYS, None):
            try:
                return _result(await self._once(definition, url, call_id, body))
            except CallbackFailed as error:
                again = error.passing and (definition.idempotent or not error.sent)
                if delay is None or not again:
                    raise
            await self._sleep(delay)
        raise AssertionError("the last try returns or raises")

    async def _once(self, definition: CallbackDefinition, url: CallbackUrl, call_id: str, body: bytes) -> bytes:
        """One try, on a connection of its own: one that was kept open might turn out closed after the call was sent."""
        if self._closed:
            raise CallbackFailed("the server is stopping", sent=False)
        self.tries += 1
        try:
            stream = await self._connector.connect(url)
        except NotConnected as error:
            raise CallbackFailed(f"{url.origin}: {error}", sent=False, passing=not error.forbidden) from None
        origin = httpcore.Origin(url.scheme.encode(), url.host.encode(), url.port)
        connection = httpcore.AsyncHTTP11Connection(origin, BoundedStream(stream, MAX_READ))
        try:
            headers = {"host": url.authority, **self._headers(definition.secret, call_id, body)}
            request = httpcore.Request(
                "POST",
                httpcore.URL(scheme=origin.scheme, host=origin.host, port=url.port, target=url.target.encode()),
                headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                content=body,
            )
            return await _answer(await connection.handle_async_request(request), url)
        except TooMuchRead:
            raise CallbackFailed(f"{url.origin} sent more than {MAX_READ} bytes") from None
        except httpcore.LocalProtocolError:
            raise CallbackFailed("the call cannot be sent: its callId does not fit into a header", sent=False) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ssl.SSLError):
            raise CallbackFailed(f"{url.origin} closed the connection or did not speak HTTP", passing=True) from None
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


class CallbackTool:
    """A callback tool of one session."""

    def __init__(self, definition: CallbackDefinition, client: CallbackClient, session_id: str) -> None:
        self._definition = definition
        self._client = client
        self._session_id = session_id

    @property
    def spec(self) -> ToolSpec:
        return self._definition.spec

    @cached_property
    def parameters(self) -> Parameters:
        """The compiled schema. Raises `InvalidSchema` if it was never checked at registration."""
        return Parameters(self._definition.parameters)

    async def run(self, call: ToolCall) -> ToolResult:
        """Call it, unless the arguments do not match its schema: those never leave (CB-2)."""
        try:
            flaw = self.parameters.flaw(call.args)
        except ValueError as error:
            flaw = str(error)
        if flaw:
            return ToolResult("error", flaw)
        return await self._client.call(self._definition, call, self._session_id)


async def _answer(response: httpcore.Response, url: CallbackUrl) -> bytes:
    """The body of a good answer, read no further than its limit."""
    _check_status(response.status, url)
    for name, value in response.headers:
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
            raise CallbackFailed(f"{url.origin} sent a compressed answer, which was not asked for")
    received = bytearray()
    async for chunk in response.aiter_stream():
        received += chunk
        if len(received) > MAX_ANSWER:
            raise CallbackFailed(f"{url.origin} sent an answer of more than {MAX_ANSWER} bytes")
    return bytes(received)


def _check_status(status: int, url: CallbackUrl) -> None:
    if 300 <= status < 400:
        raise CallbackFailed(f"{url.origin} answered with a redirect ({status}), which is not followed")
    if not 200 <= status < 300:
        passing = status == 429 or status >= 500
        raise CallbackFailed(f"{url.origin} answered with status {status}", passing=passing)


def _result(answer: bytes) -> ToolResult:
    """What the tool said (CB-2)."""
    try:
        said = parse_value(answer)
    except NotStrictJson as error:
        raise CallbackFailed(f"its answer is not JSON: {error}") from None
    match said:
        case {"result": _, "error": _}:
            pass
        case {"result": str(result)}:
            return ToolResult("ok", result)
        case {"result": result}:
            return ToolResult("ok", dumps(result).decode())
        case {"error": str(error)}:
            return ToolResult("error", error)
        case _:
            pass
    raise CallbackFailed('its answer must be a JSON object with either "result" or "error" (a string)')


def _failed(definition: CallbackDefinition, sentence: str) -> ToolResult:
    return ToolResult("error", f"the tool {definition.name!r} failed: {sentence}")
