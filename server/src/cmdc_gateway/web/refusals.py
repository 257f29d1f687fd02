"""Errors as they leave when no route is there to answer: from the HTTP parser, and before a WebSocket's handshake.

The same body as everywhere (HTTP-2), written without the application.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from cmdc_gateway.errors import GatewayError

# Only the codes that arise below the routes; theirs are in `web/errors.py`.
_STATUS = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "forbidden": HTTPStatus.FORBIDDEN,
    "request_timeout": HTTPStatus.REQUEST_TIMEOUT,
    "uri_too_long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "upgrade_required": HTTPStatus.UPGRADE_REQUIRED,
    "headers_too_large": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status(error: GatewayError) -> HTTPStatus:
    """The HTTP status of an error that is answered here."""
    return _STATUS[error.code]


def body(error: GatewayError) -> bytes:
    """The JSON body of HTTP-2."""
    members = {"error": error.code, "message": error.message, **error.members()}
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def headers(content: bytes) -> list[tuple[bytes, bytes]]:
    """What goes before such a body. It is the last answer of its connection."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"connection", b"close"),
    ]


def response(error: GatewayError, common: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP/1.1 response; `common` are the headers that every response of this server has."""
    code, content = status(error), body(error)
    fields = [b"%s: %s" % field for field in (*common, *headers(content))]
    return b"\r\n".join([b"HTTP/1.1 %d %s" % (code, code.phrase.encode()), *fields, b"", content])
