# Derived from _async/transport.py by derive_sync.py: change that, and run this again.
"""Requests on their way: the only module that knows httpx.

Every request carries the key, and goes to the base URL and nowhere else: no redirect is followed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from random import random
from typing import Any, TypeVar

import httpx

from cmdc_client import operations
from cmdc_client.answers import Answer, refused
from cmdc_client.config import Config
from cmdc_client.errors import ApiError, CmdcError, ConnectionFailed, IdempotencyInProgress, ProtocolError
from cmdc_client.operations import Call
from cmdc_client.platform import sleep
from cmdc_client.retrying import Retries, undone

T = TypeVar("T")

# Each stream holds a connection for as long as it is read, and there may be many. httpx counts those too when it has a
# bound for idle ones, and with more of them would close every other connection, if need be one that is about to be used.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


class Transport:
    """Sends requests to one server, and again where that is safe."""

    def __init__(self, config: Config, http_client: httpx.Client | None) -> None:
        self.config = config
        self._http = http_client or httpx.Client(limits=_LIMITS)
        self._owns_http = http_client is None
        self._extended: frozenset[str] | None = None

    def close(self) -> None:
        """Close the connections, unless they are those of a client that was handed in."""
        if self._owns_http:
            self._http.close()

    def call(self, call: Call[T]) -> T:
        """Carry out a request. Raises ApiError, ProtocolError or ConnectionFailed."""
        retries = Retries(self.config, random)
        while True:
            try:
                return call.promise.read(self._send(call))
            except CmdcError as failure:
                delay = retries.after(failure)
                if not self._may_repeat(call, failure):
                    raise
            sleep(delay)

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> Generator[Iterator[bytes]]:
        """Open an event stream: the pieces of its body. Raises ApiError, ProtocolError or ConnectionFailed."""
        where = f"GET {path}"
        timeout = httpx.Timeout(self.config.timeout, read=self.config.silence)
        with _as_ours(where):
            with self._http.stream(
                "GET",
                self.config.base_url + path,
                params=params,
                headers={**headers, **self.config.credentials},
                follow_redirects=False,
                timeout=timeout,
            ) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if response.status_code != 200 or kind != "text/event-stream":
                    answer = _answer(where, response, response.read())
                    raise refused(answer) if answer.status != 200 else _no_stream(answer)
                yield response.iter_bytes()

    def extended(self) -> frozenset[str]:
        """What the server can do beyond the base protocol; asked once."""
        if self._extended is None:
            try:
                self._extended = frozenset((self.call(operations.get_capabilities())).extended)
            except ApiError as refusal:
                if refusal.http_status != 404:
                    raise
                self._extended = frozenset()
        return self._extended

    def _may_repeat(self, call: Call[Any], failure: CmdcError) -> bool:
        """Whether sending the request again cannot make it happen twice."""
        if call.again == "always" or undone(failure) or isinstance(failure, IdempotencyInProgress):
            return True
        if call.again == "never":
            return False
        try:
            return "idempotency" in self.extended()
        except CmdcError:
            return False

    def _send(self, call: Call[Any]) -> Answer:
        with _as_ours(str(call)):
            response = self._http.request(
                call.method,
                self.config.base_url + call.path,
                params=call.params,
                headers={**call.headers, **self.config.credentials},
                json=call.body,
                follow_redirects=False,
                timeout=self.config.timeout,
            )
        return _answer(str(call), response, response.content)


class _as_ours:  # noqa: N801 - reads as a statement does
    """Turns what httpx raises into errors of ours. Nothing was sent if there was never a connection."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        match failure:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
                raise ConnectionFailed(f"{self._where}: no connection: {_said(failure)}", sent=False) from failure
            case httpx.DecodingError():
                raise ProtocolError(self._where, f"the answer cannot be decoded: {_said(failure)}") from failure
            case httpx.HTTPError():
                raise ConnectionFailed(f"{self._where}: the connection was lost: {_said(failure)}") from failure
            case _:
                return


def _said(failure: Exception) -> str:
    return str(failure) or type(failure).__name__


def _answer(request: str, response: httpx.Response, body: bytes) -> Answer:
    return Answer(request, response.status_code, dict(response.headers), body)


def _no_stream(answer: Answer) -> ProtocolError:
    kind = answer.headers.get("content-type", "nothing")
    return ProtocolError(answer.request, f"the answer is {kind} where text/event-stream was expected", http_status=200)
