# Generated from _async/transport.py by derive_sync.py; edit that file instead.
"""Sends requests with httpx; no other module uses it.

Every request carries the API key, and goes to the base URL only: redirects are not followed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from random import random
from typing import Any, TypeVar

import httpx

from cmdc_client import operations
from cmdc_client.backends import sleep
from cmdc_client.config import Config
from cmdc_client.errors import ApiError, CmdcError, ConnectionFailed, IdempotencyInProgress, ProtocolError
from cmdc_client.operations import ApiRequest
from cmdc_client.responses import RawResponse, error_from_response
from cmdc_client.retry import RequestRetries, was_not_processed

T = TypeVar("T")

# Every stream occupies a connection. With a limit on idle connections, httpx would also count the streams, and beyond the
# limit close every other connection, even one that is about to be used.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


class Transport:
    """Sends requests to one server, and repeats them if that is safe."""

    def __init__(self, config: Config, http_client: httpx.Client | None) -> None:
        self.config = config
        self._http = http_client or httpx.Client(limits=_LIMITS)
        self._owns_http = http_client is None
        self._features: frozenset[str] | None = None

    def close(self) -> None:
        """Close the connections, unless they belong to an httpx client of the caller."""
        if self._owns_http:
            self._http.close()

    def send(self, request: ApiRequest[T]) -> T:
        """Send a request, with retries, and parse its response. Raises ApiError, ProtocolError or ConnectionFailed."""
        retries = RequestRetries(self.config, random)
        while True:
            try:
                return request.expected.parse(self._send_once(request))
            except CmdcError as error:
                delay = retries.delay_after(error)
                if not self._may_repeat(request, error):
                    raise
            sleep(delay)

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> Generator[Iterator[bytes]]:
        """Open an event stream; yields the chunks of its body. Raises ApiError, ProtocolError or ConnectionFailed."""
        where = f"GET {path}"
        timeout = httpx.Timeout(self.config.timeout, read=self.config.idle_timeout)
        with _TranslateErrors(where):
            with self._http.stream(
                "GET",
                self.config.base_url + path,
                params=params,
                headers={**headers, **self.config.credentials},
                follow_redirects=False,
                timeout=timeout,
            ) as response:
                head = _raw_response(where, response, b"")
                if head.status != 200 or head.media_type != "text/event-stream":
                    body = response.read()
                    raise error_from_response(replace(head, body=body)) if head.status != 200 else _not_a_stream(head)
                yield response.iter_bytes()

    def features(self) -> frozenset[str]:
        """Return the server's features beyond the base protocol. They are requested once."""
        if self._features is None:
            try:
                self._features = frozenset((self.send(operations.get_capabilities())).extended)
            except ApiError as error:
                if error.http_status != 404:  # a server of the base protocol does not describe itself
                    raise
                self._features = frozenset()
        return self._features

    def _may_repeat(self, request: ApiRequest[Any], error: CmdcError) -> bool:
        """Return whether repeating the request cannot perform it twice."""
        if request.retry == "always" or was_not_processed(error) or isinstance(error, IdempotencyInProgress):
            return True
        if request.retry == "never":
            return False
        try:
            return "idempotency" in self.features()
        except CmdcError:
            return False

    def _send_once(self, request: ApiRequest[Any]) -> RawResponse:
        with _TranslateErrors(str(request)):
            response = self._http.request(
                request.method,
                self.config.base_url + request.path,
                params=request.params,
                headers={**request.headers, **self.config.credentials},
                json=request.body,
                follow_redirects=False,
                timeout=self.config.timeout,
            )
        return _raw_response(str(request), response, response.content)


class _TranslateErrors:
    """Raises exceptions of httpx as exceptions of this package. Without a connection, nothing was sent."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        match exc:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
                raise ConnectionFailed(f"{self._where}: cannot connect: {_message(exc)}", sent=False) from exc
            case httpx.DecodingError():
                raise ProtocolError(self._where, f"the response cannot be decoded: {_message(exc)}") from exc
            case httpx.HTTPError():
                raise ConnectionFailed(f"{self._where}: the connection was lost: {_message(exc)}") from exc
            case _:
                return


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__


def _raw_response(request: str, response: httpx.Response, body: bytes) -> RawResponse:
    return RawResponse(request, response.status_code, dict(response.headers), body)


def _not_a_stream(response: RawResponse) -> ProtocolError:
    media_type = response.media_type or "(none)"
    return ProtocolError(
        response.request, f"the response has the content type {media_type}, not text/event-stream", http_status=200
    )
