"""Checks of a request's head that llhttp omits and RFC 9112 requires."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from cmdc_gateway.errors import BadRequest

Upgrade = Literal["none", "websocket", "other"]


def check_head(headers: Iterable[tuple[bytes, bytes]], version: str, upgrade: Upgrade) -> int:
    """Return the announced length of the body, 0 if none is announced. Raises BadRequest."""
    hosts, length, codings = 0, 0, list[bytes]()
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            codings.append(value.lower())
    if version not in {"1.0", "1.1"}:
        raise BadRequest(f"HTTP/{version} is not supported; send HTTP/1.1")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadRequest("a request needs exactly one Host header")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise BadRequest("the only supported Transfer-Encoding is chunked, once, with HTTP/1.1")
    if upgrade == "other" and (length or codings):
        raise BadRequest("a request with a body cannot ask for an Upgrade")
    return length
