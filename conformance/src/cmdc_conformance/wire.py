"""HTTP as it is: requests with httpx, streams read by the suite's own strict parser, every answer shown to the monitors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

import httpx

from cmdc_conformance import schemas
from cmdc_conformance.findings import Blocked, Failed
from cmdc_conformance.monitors import Event
from cmdc_conformance.reader import Reader, Watch
from cmdc_conformance.sse import Comment, Flaw, Frame, StrictParser

JsonObject = dict[str, Any]

# A wait of so many seconds is told of, unless one was told of in the last minute.
_LONG_WAIT: Final = 3.0
_BETWEEN_NOTICES: Final = 60.0

# A connection is used once: in the moment in which it is used again, the server may give it up for being idle, or httpx
# may, and that would be told of the server.
_NO_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came. `request` is method and path, or the action on a WebSocket."""

    request: str
    status: int
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytes = b""

    @property
    def code(self) -> str | None:
        """The error's code."""
        code = self.body.get("error")
        return code if isinstance(code, str) else None

    @property
    def message(self) -> str:
        message = self.body.get("message")
        return message if isinstance(message, str) else ""

    def needed(self, *statuses: int) -> JsonObject:
        """The body, if the status is one of these. Raises Blocked."""
        if self.status not in statuses:
            raise Blocked(self._told(" or ".join(map(str, statuses))))
        return self.body

    def must_be(self, *statuses: int, code: str | None = None, why: str = "") -> JsonObject:
        """The body, if the status is one of these and the code is this. Raises Failed."""
        if self.status not in statuses or (code is not None and self.code != code):
            wanted = " or ".join(map(str, statuses)) + (f" {code}" if code else "")
            raise Failed(f"{self._told(wanted)}{f' ({why})' if why else ''}")
        return self.body

    def _told(self, wanted: str) -> str:
        said = f" {self.code}: {self.message}" if self.code else ""
        return f"{self.request} was answered {self.status}{said}, and should be {wanted}"[:600]


class Patience:
    """How long was waited because the server asked for it. `notice` hears of it, now and then, where that is long."""

    def __init__(self, notice: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self.waited = 0.0
        self._notice = notice
        self._clock = clock
        self._told: float | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait as long as a 429 says."""
        self.waited += seconds
        self._tell(seconds)
        await asyncio.sleep(seconds)

    def _tell(self, seconds: float) -> None:
        now = self._clock()
        if seconds < _LONG_WAIT or (self._told is not None and now - self._told < _BETWEEN_NOTICES):
            return
        self._told = now
        self._notice(
            f"the server answers 429 and asks for {seconds:.0f} s of patience: the suite waits"
            " (with the rate limit lifted it would not have to)"
        )


class Http:
    """Requests to one server with one key."""

    def __init__(
        self, url: str, key: str | None, *, watch: Watch, client: httpx.AsyncClient, patience: Patience, deadline: float
    ) -> None:
        self.url = url
        self.key = key
        self.watch = watch
        self.deadline = deadline
        self._client = client
        self.patience = patience

    def with_key(self, key: str | None) -> Http:
        """The same server with another key, or without one."""
        return self.at(self.url, key)

    def at(self, url: str, key: str | None) -> Http:
        """Another address."""
        return Http(url, key, watch=self.watch, client=self._client, patience=self.patience, deadline=self.deadline)

    @property
    def credentials(self) -> dict[str, str]:
        return {"X-API-Key": self.key} if self.key is not None else {}

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("POST", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patient: bool = True,
        secret: bool = False,
        within: float | None = None,
        judged: bool = True,
    ) -> Answer:
        """Send one request; a 429 for the rate is waited out, unless told otherwise. Raises Blocked without an answer.

        `content` is sent as it is, in place of a body of JSON. `secret` says that the answer may hold a secret.
        """
        sent = {**self.credentials, **(headers or {})}
        if body is not None:
            content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
            sent = {"Content-Type": "application/json", **sent}
        while True:
            answer = await self._once(
                method, path, content, sent, within=within or self.deadline, secret=secret, judged=judged
            )
            wait = answer.body.get("retryAfter")
            if patient and answer.code == "rate_limited" and isinstance(wait, int | float) and 0 <= wait <= 120:
                await self.patience.sleep(wait)
                continue
            return answer

    async def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        *,
        within: float,
        secret: bool,
        judged: bool,
    ) -> Answer:
        shown = (content or b"").decode("utf-8", "replace")
        self.watch.evidence.note(f"→ {method} {path}{_shown(headers)} {shown}")
        try:
            async with asyncio.timeout(within):
                response = await self._sent(method, self.url + path, content=content, headers=dict(headers))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
            self.watch.evidence.note(f"← no answer: {type(failure).__name__} {failure}")
            raise Blocked(f"{method} {path[:200]} was not answered: {type(failure).__name__} {failure}") from None
        return self.answer(
            method, path, response.status_code, response.headers, response.content, secret=secret, judged=judged
        )

    async def _sent(self, method: str, url: str, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; what only looks is sent again if its connection was closed by the server meanwhile."""
        request = self._client.build_request(method, url, timeout=None, **options)
        try:
            return await self._client.send(request, stream=stream)
        except httpx.RemoteProtocolError:
            if method != "GET":
                raise
            return await self._client.send(request, stream=stream)

    def answer(
        self,
        method: str,
        path: str,
        status: int,
        headers: Mapping[str, str],
        raw: bytes,
        *,
        secret: bool = False,
        judged: bool = True,
    ) -> Answer:
        """Show an answer to the monitors, and read it."""
        self.watch.evidence.note(f"← {status} {headers.get('content-type', '')} {raw.decode('utf-8', 'replace')}")
        route = schemas.route_of(method, urlsplit(path).path)
        if judged:
            self.watch.monitors.answer(self.watch.report, route, status, headers, raw, secret=secret)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        known = cast("JsonObject", body) if isinstance(body, dict) else {}
        return Answer(f"{method} {path[:200]}", status, known, headers, raw)

    # -- streams -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(
        self, path: str, *, headers: Mapping[str, str] | None = None, within: float | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """An answer whose body is read by whoever asks for it. Raises Blocked when no headers come in time."""
        sent = {**self.credentials, "Accept": "text/event-stream", **(headers or {})}
        self.watch.evidence.note(f"→ GET {path}{_shown(sent)}")
        while True:
            try:
                async with asyncio.timeout(within or self.deadline):
                    response = await self._sent("GET", self.url + path, headers=sent, stream=True)
            except (httpx.HTTPError, TimeoutError) as failure:
                raise Blocked(f"GET {path[:200]} was not answered: {type(failure).__name__} {failure}") from None
            if response.status_code == 429 and (wait := response.headers.get("retry-after", "")).isdigit():
                await response.aclose()
                await self.patience.sleep(int(wait))
                continue
            break
        self.watch.evidence.note(f"← {response.status_code} {response.headers.get('content-type', '')}")
        try:
            yield response
        finally:
            await response.aclose()

    async def refused(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """What a request for a stream is answered, where that should be a refusal. A stream is status 200, unread."""
        async with self.opened(path, headers=headers) as response:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return Answer(f"GET {path}", response.status_code, {}, response.headers)
            async with asyncio.timeout(self.deadline):
                raw = await response.aread()
            return self.answer("GET", path, response.status_code, response.headers, raw)

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
        """Read a session's stream. Raises Blocked if there is none."""
        query = {**(params or {}), **more}
        path = f"/v1/sessions/{session}/events{f'?{urlencode(query)}' if query else ''}"
        async with self.opened(path, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            if response.status_code != 200 or not kind.startswith("text/event-stream"):
                raw = await response.aread()
                answer = self.answer("GET", path, response.status_code, response.headers, raw)
                answer.needed(200)
                raise Blocked(f"GET {path} is answered with {kind!r}, not with a stream")
            reader = SseReader(response, self.watch, key, deadline=self.deadline, filtered=filtered, whole=whole)
            async with reader.start():
                yield reader


class SseReader(Reader):
    """A stream, read strictly."""

    transport = "sse"

    def __init__(
        self, response: httpx.Response, watch: Watch, key: str, *, deadline: float, filtered: bool, whole: bool
    ) -> None:
        super().__init__(watch, key, deadline=deadline, filtered=filtered, whole=whole)
        self.response = response
        self.comments: list[float] = []
        self.comes_first = "nothing"
        self.read = 0

    async def _read(self) -> None:
        parser = StrictParser()
        async for piece in self.response.aiter_raw():
            self.read += len(piece)
            for item in parser.feed(piece):
                await self._item(item)
        for item in parser.end():
            await self._item(item)

    async def _item(self, item: Frame | Comment | Flaw) -> None:
        monitors, report = self._watch.monitors, self._watch.report
        if self.comes_first == "nothing":
            self.comes_first = type(item).__name__.lower()
        match item:
            case Comment():
                self.comments.append(monotonic())
                monitors.observed["SSE-3.harmless"] += 1
                await self._tell()
            case Flaw(kind="heartbeat", message=message):
                report("SSE-3.harmless", message)
            case Flaw(message=message):
                report("SSE-2", message)
            case Frame(event=name, data=data, id=cursor):
                monitors.observed["SSE-2"] += 1
                if monitors.extended and cursor is None:
                    report("SSE-2", f"the frame of {name} has no id")
                try:
                    fields = json.loads(data)
                except ValueError:
                    fields = None
                if not isinstance(fields, dict):
                    report("SSE-2", f"the data of {name} is no object of JSON: {data[:200]!r}")
                    return
                await self.take(Event(name, cast("JsonObject", fields), cursor, data))


def _shown(headers: Mapping[str, str]) -> str:
    shown = {name: value for name, value in headers.items() if name.lower() not in ("content-type", "accept")}
    return "".join(f" [{name}: {value}]" for name, value in shown.items())


def http_client() -> httpx.AsyncClient:
    """What all requests of a run go through. It asks no proxy, and follows no redirect."""
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=_NO_LIMITS, timeout=None)  # noqa: S113 - each request has its own
