"""Error responses written without the application: for the HTTP parser and before a WebSocket handshake.

Their body is the one of every error (HTTP-2).
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from cmdc_gateway.errors import GatewayError
from cmdc_gateway.web.errors import STATUS, error_body


def headers(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers for this error body, which is the last response of its connection."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"connection", b"close"),
    ]


def response(error: GatewayError, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a complete HTTP/1.1 response. `default_headers` are those of every response of this server."""
    status, content = HTTPStatus(STATUS[error.code]), error_body(error)
    fields = [b"%s: %s" % field for field in (*default_headers, *headers(content))]
    return b"\r\n".join([b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *fields, b"", content])
