"""Requests over HTTP with httpx. The monitors see every response."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

import httpx

from cmdc_conformance import schemas
from cmdc_conformance.findings import Blocked, Failed
from cmdc_conformance.wire.reader import Observer
from cmdc_conformance.wire.sse_reader import SseReader

JsonObject = dict[str, Any]

_LONGEST_BACKOFF: Final = 120.0
# The user is notified of a wait of this many seconds or more, at most once a minute.
_LONG_WAIT: Final = 3.0
_BETWEEN_NOTICES: Final = 60.0

# Each connection serves one request. On a reused one, the server may close an idle connection at the moment at which the
# next request is sent, and the suite would blame the server for the lost request.
_NO_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=0)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response of the server. `request` is its method and path, or the action on a WebSocket."""

    request: str
    status: int
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytes = b""

    @property
    def code(self) -> str | None:
        """The code of an error response."""
        code = self.body.get("error")
        return code if isinstance(code, str) else None

    @property
    def message(self) -> str:
        message = self.body.get("message")
        return message if isinstance(message, str) else ""

    def require(self, *statuses: int) -> JsonObject:
        """Return the body of a response with one of these statuses. Raises Blocked for any other."""
        if self.status not in statuses:
            raise Blocked(self._unexpected(" or ".join(map(str, statuses))))
        return self.body

    def expect(self, *statuses: int, code: str | None = None, why: str = "") -> JsonObject:
        """Return the body of a response with one of these statuses and this code. Raises Failed for any other."""
        if self.status not in statuses or (code is not None and self.code != code):
            wanted = " or ".join(map(str, statuses)) + (f" {code}" if code else "")
            raise Failed(f"{self._unexpected(wanted)}{f' ({why})' if why else ''}")
        return self.body

    def _unexpected(self, wanted: str) -> str:
        error = f" {self.code}: {self.message}" if self.code else ""
        return f"{self.request} returned {self.status}{error}, expected {wanted}"[:600]


class RateLimitBackoff:
    """Waits that the server asked for. `waited` is their sum in seconds; `notice` receives a sentence about long ones."""

    def __init__(self, notice: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self.waited = 0.0
        self._notice = notice
        self._clock = clock
        self._notified_at: float | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait as long as a 429 asks for."""
        self.waited += seconds
        self._notify(seconds)
        await asyncio.sleep(seconds)

    def _notify(self, seconds: float) -> None:
        now = self._clock()
        if seconds < _LONG_WAIT or (self._notified_at is not None and now - self._notified_at < _BETWEEN_NOTICES):
            return
        self._notified_at = now
        self._notice(
            f"rate limited (429): waiting {seconds:.0f} s; lift the rate limit for these keys to make the run faster"
        )


def retry_delay(response: ApiResponse) -> float | None:
    """The seconds after which a rate-limited request may be repeated; None if it should not be."""
    delay = response.body.get("retryAfter")
    if response.code != "rate_limited" or not isinstance(delay, int | float) or not 0 <= delay <= _LONGEST_BACKOFF:
        return None
    return delay


class ApiClient:
    """Requests to one server with one key. `deadline` is the timeout of one request in seconds."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        observer: Observer,
        client: httpx.AsyncClient,
        backoff: RateLimitBackoff,
        deadline: float,
    ) -> None:
        self.url = url
        self.key = key
        self.observer = observer
        self.deadline = deadline
        self.backoff = backoff
        self._client = client

    def with_key(self, key: str | None) -> ApiClient:
        """A client for the same server with another key, or without one."""
        return self.with_url(self.url, key)

    def with_url(self, url: str, key: str | None) -> ApiClient:
        """A client for another server."""
        return ApiClient(
            url, key, observer=self.observer, client=self._client, backoff=self.backoff, deadline=self.deadline
        )

    @property
    def credentials(self) -> dict[str, str]:
        return {"X-API-Key": self.key} if self.key is not None else {}

    async def get(self, path: str, **options: Any) -> ApiResponse:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> ApiResponse:
        return await self.request("POST", path, body, **options)

    async def delete(self, path: str, **options: Any) -> ApiResponse:
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry_rate_limited: bool = True,
        secret: bool = False,
        within: float | None = None,
        monitored: bool = True,
    ) -> ApiResponse:
        """Send a request. Raises Blocked if no response arrives.

        `content` is sent as it is, instead of a JSON body. `secret` says that the response may contain a secret. A
        rate-limited request is repeated after the wait that the server asks for, unless `retry_rate_limited` is false.
        """
        sent = {**self.credentials, **(headers or {})}
        if body is not None:
            content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
            sent = {"Content-Type": "application/json", **sent}
        while True:
            response = await self._once(
                method, path, content, sent, within=within or self.deadline, secret=secret, monitored=monitored
            )
            delay = retry_delay(response) if retry_rate_limited else None
            if delay is None:
                return response
            await self.backoff.sleep(delay)

    async def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        *,
        within: float,
        secret: bool,
        monitored: bool,
    ) -> ApiResponse:
        text = (content or b"").decode("utf-8", "replace")
        self.observer.evidence.note(f"→ {method} {path}{_shown(headers)} {text}")
        try:
            async with asyncio.timeout(within):
                response = await self._send(method, self.url + path, content=content, headers=dict(headers))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
            self.observer.evidence.note(f"← no response: {type(failure).__name__} {failure}")
            raise Blocked(f"{method} {path[:200]} got no response: {type(failure).__name__} {failure}") from None
        return self.parse(
            method, path, response.status_code, response.headers, response.content, secret=secret, monitored=monitored
        )

    async def _send(self, method: str, url: str, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; send a GET once more if the server closed its connection meanwhile."""
        request = self._client.build_request(method, url, timeout=None, **options)
        try:
            return await self._client.send(request, stream=stream)
        except httpx.RemoteProtocolError:
            if method != "GET":
                raise
            return await self._client.send(request, stream=stream)

    def parse(
        self,
        method: str,
        path: str,
        status: int,
        headers: Mapping[str, str],
        raw: bytes,
        *,
        secret: bool = False,
        monitored: bool = True,
    ) -> ApiResponse:
        """Show a response to the monitors and parse it. A body that is not a JSON object is parsed as {}."""
        self.observer.evidence.note(f"← {status} {headers.get('content-type', '')} {raw.decode('utf-8', 'replace')}")
        route = schemas.route_of(method, urlsplit(path).path)
        if monitored:
            self.observer.monitors.response(self.observer.report, route, status, headers, raw, secret=secret)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        known = cast("JsonObject", body) if isinstance(body, dict) else {}
        return ApiResponse(f"{method} {path[:200]}", status, known, headers, raw)

    # -- streams -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, within: float | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """A response whose body the caller reads. Raises Blocked if its headers do not arrive in time."""
        sent = {**self.credentials, "Accept": "text/event-stream", **(headers or {})}
        self.observer.evidence.note(f"→ GET {path}{_shown(sent)}")
        while True:
            try:
                async with asyncio.timeout(within or self.deadline):
                    response = await self._send("GET", self.url + path, headers=sent, stream=True)
            except (httpx.HTTPError, TimeoutError) as failure:
                raise Blocked(f"GET {path[:200]} got no response: {type(failure).__name__} {failure}") from None
            if response.status_code == 429 and (delay := response.headers.get("retry-after", "")).isdigit():
                await response.aclose()
                await self.backoff.sleep(int(delay))
                continue
            break
        self.observer.evidence.note(f"← {response.status_code} {response.headers.get('content-type', '')}")
        try:
            yield response
        finally:
            await response.aclose()

    async def try_stream(self, path: str, *, headers: Mapping[str, str] | None = None) -> ApiResponse:
        """Request a stream that the server should refuse; return its response. A stream that is granted is not read."""
        async with self.open_stream(path, headers=headers) as response:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return ApiResponse(f"GET {path}", response.status_code, {}, response.headers)
            async with asyncio.timeout(self.deadline):
                raw = await response.aread()
            return self.parse("GET", path, response.status_code, response.headers, raw)

    @asynccontextmanager
    async def events(
        self,
        session: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        filtered: bool = False,
        whole: bool = True,
        **more: str,
    ) -> AsyncGenerator[SseReader]:
        """Read a session's event stream. Raises Blocked if the server does not return one."""
        query = {**(params or {}), **more}
        path = f"/v1/sessions/{session}/events{f'?{urlencode(query)}' if query else ''}"
        async with self.open_stream(path, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            if response.status_code != 200 or not kind.startswith("text/event-stream"):
                raw = await response.aread()
                self.parse("GET", path, response.status_code, response.headers, raw).require(200)
                raise Blocked(f"GET {path} returned {kind!r} instead of a stream")
            reader = SseReader(response, self.observer, key, deadline=self.deadline, filtered=filtered, whole=whole)
            async with reader.start():
                yield reader


def _shown(headers: Mapping[str, str]) -> str:
    shown = {name: value for name, value in headers.items() if name.lower() not in ("content-type", "accept")}
    return "".join(f" [{name}: {value}]" for name, value in shown.items())


@cache
def _ssl_context() -> ssl.SSLContext:
    """The default context. Loading its certificates takes longer than a check, so it is shared."""
    return httpx.create_ssl_context(trust_env=False)


def http_client() -> httpx.AsyncClient:
    """The connection pool of a suite run. It uses no proxy and follows no redirect."""
    return httpx.AsyncClient(
        verify=_ssl_context(),
        trust_env=False,
        follow_redirects=False,
        limits=_NO_LIMITS,
        timeout=None,  # noqa: S113 - each request has its own
    )
