"""The response of a callback tool (CB-2, CB-3)."""

from __future__ import annotations

from typing import Final

import httpcore

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.strict import NotStrictJson, parse_value
from cmdc_gateway.tools.callbacks.errors import CallbackFailed
from cmdc_gateway.tools.callbacks.url import CallbackUrl
from cmdc_gateway.tools.tool import ToolResult

MAX_RESPONSE_BYTES: Final = 256 * 1024


async def read_body(response: httpcore.Response, url: CallbackUrl) -> bytes:
    """The body of a successful response. Raises `CallbackFailed`."""
    _check_status(response.status, url)
    for name, value in response.headers:
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
            raise CallbackFailed(f"{url.origin} sent a compressed response, although the request does not accept one")
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise CallbackFailed(f"{url.origin} sent a response of more than {MAX_RESPONSE_BYTES} bytes")
    return bytes(body)


def parse_result(body: bytes) -> ToolResult:
    """The result in a response body. Raises `CallbackFailed`."""
    try:
        value = parse_value(body)
    except NotStrictJson as error:
        raise CallbackFailed(f"its response is not JSON: {error}") from None
    match value:
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
    raise CallbackFailed('its response must be a JSON object with either "result" or "error" (a string)')


def _check_status(status: int, url: CallbackUrl) -> None:
    if 300 <= status < 400:
        raise CallbackFailed(f"{url.origin} returned a redirect ({status}), which is not followed")
    if not 200 <= status < 300:
        transient = status == 429 or status >= 500
        raise CallbackFailed(f"{url.origin} returned status {status}", transient=transient)
