"""As much of HTTP/1.1 as a small server of tools needs, read strictly and within bounds.

A body has a Content-Length or it is refused: nothing that sends calls sends them in chunks, and where two lengths could be
read there is none to choose from.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

MAX_HEAD: Final = 32 * 1024
MAX_FIELDS: Final = 100

_END: Final = b"\r\n\r\n"
_LINE: Final = re.compile(rb"(?P<method>[A-Z]{1,16}) (?P<target>[!-~]{1,8192}) HTTP/1\.(?P<minor>[01])")
_FIELD: Final = re.compile(rb"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[\t -~\x80-\xff]*?)[ \t]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class Refused(Exception):
    """A request that is answered with a status and a sentence, after which the connection is closed."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Timing:
    """How many seconds a connection may be idle, and each part of a request may take."""

    idle: float = 30.0
    head: float = 10.0
    body: float = 30.0
    answer: float = 30.0


@dataclass(frozen=True, slots=True)
class Head:
    """All of a request but its body. Names of headers are in lower case."""

    method: str
    headers: dict[str, str]
    keep_alive: bool
    length: int

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Read what stands before the empty line. Raises Refused."""
        first, *lines = raw.split(b"\r\n")
        line = _LINE.fullmatch(first)
        if line is None:
            raise Refused(400, "this is no request of HTTP/1.1")
        if len(lines) > MAX_FIELDS:
            raise Refused(431, f"the request has more than {MAX_FIELDS} headers")
        headers = _headers(lines)
        newest = line["minor"] == b"1"
        if newest and "host" not in headers:
            raise Refused(400, "the header Host is missing")
        options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
        keep_alive = "close" not in options if newest else "keep-alive" in options
        return cls(line["method"].decode(), headers, keep_alive, _length(headers))

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


async def read_head(reader: asyncio.StreamReader, timing: Timing) -> Head | None:
    """The next request on a connection; None if there is none. Raises Refused."""
    try:
        async with asyncio.timeout(timing.idle):
            start = await reader.read(1)
    except TimeoutError:
        return None
    if not start:
        return None
    try:
        async with asyncio.timeout(timing.head):
            rest = await reader.readuntil(_END)
    except TimeoutError:
        raise Refused(408, "the headers took too long to arrive") from None
    except asyncio.LimitOverrunError:
        raise Refused(431, f"the headers are longer than {MAX_HEAD} bytes") from None
    except asyncio.IncompleteReadError:
        return None
    # "A server … SHOULD ignore at least one empty line (CRLF) received prior to the request-line" (RFC 9112, 2.2)
    return Head.parse((start + rest).removesuffix(_END).removeprefix(b"\r\n"))


async def read_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head, limit: int, timing: Timing
) -> bytes:
    """The body that comes after this head. Raises Refused, and IncompleteReadError if the connection is lost."""
    if head.length > limit:
        raise Refused(413, f"the body is longer than {limit} bytes")
    if not head.length:
        return b""
    if head.expects_continue:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(timing.body):
            return await reader.readexactly(head.length)
    except TimeoutError:
        raise Refused(408, "the body took too long to arrive") from None


def answer(status: int, body: bytes, *, keep_alive: bool, bodiless: bool = False) -> bytes:
    """An answer of JSON. `bodiless` is the answer to a HEAD."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(["Allow: POST"] if status == 405 else []),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if bodiless else body)


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise Refused(400, "a header is malformed")
        name, value = field["name"].decode().lower(), field["value"].decode("latin-1")
        if name in headers and name in ("content-length", "host"):
            raise Refused(400, f"the header {name} is there twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refused(411, "the body must have a Content-Length, and no Transfer-Encoding")
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise Refused(400, "the Content-Length must be a number")
    return int(length)
