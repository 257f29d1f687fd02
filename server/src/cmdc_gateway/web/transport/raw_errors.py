"""Errors as they leave when no route is there to answer: from the HTTP parser, and before a WebSocket's handshake.

The same body as everywhere (HTTP-2), written without the application.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from cmdc_gateway.errors import GatewayError
from cmdc_gateway.web.errors import STATUS, error_body


def headers(content: bytes) -> list[tuple[bytes, bytes]]:
    """What goes before such a body. It is the last answer of its connection."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"connection", b"close"),
    ]


def response(error: GatewayError, common: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP/1.1 response; `common` are the headers that every response of this server has."""
    status, content = HTTPStatus(STATUS[error.code]), error_body(error)
    fields = [b"%s: %s" % field for field in (*common, *headers(content))]
    return b"\r\n".join([b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *fields, b"", content])
