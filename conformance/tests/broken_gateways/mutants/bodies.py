"""Mutants that mishandle request bodies (HTTP-1 … HTTP-5)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

from cmdc_gateway import app, server
from cmdc_gateway.errors import BadRequest
from cmdc_gateway.protocol import strict
from cmdc_gateway.protocol.sessions import CreateSessionBody
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.web import dependencies, errors
from cmdc_gateway.web.streaming import websocket

from broken_gateways.mutant import breaks
from broken_gateways.patching import Message, Receive, Response, Scope, Send, after, change_responses, put_before, wrap

# -- HTTP-1, HTTP-2 ----------------------------------------------------------------------------------------------------


@breaks("HTTP-1.json", shown_by=["EP-stats"])
def plain_text() -> None:
    """Session info has Content-Type text/plain."""

    def change(response: Response) -> None:
        if response.status == 200:
            response.headers["content-type"] = "text/plain"

    change_responses(r"/v1/sessions/[^/]+/stats", change)


@breaks("HTTP-1.fields", "EP-session.get", shown_by=["EP-session.get"])
def snake_case() -> None:
    """Session info is in snake_case."""

    def change(response: Response) -> None:
        if response.status == 200:
            response.body["uptime_ms"] = response.body.pop("uptimeMs")

    change_responses(r"/v1/sessions/[^/]+", change, method="GET")


@breaks("HTTP-2.body", "HTTP-6.wrong-method", shown_by=["HTTP-6.wrong-method"])
def framework_error_body() -> None:
    """A wrong method returns the web framework's own error body."""

    def change(response: Response) -> None:
        if response.status == 405:
            response.body = {"detail": "Method Not Allowed"}

    change_responses(r"/.*", change, method="[A-Z]+")


@breaks("HTTP-2.leak", shown_by=["HTTP-7.revoked", "HTTP-7.wrong-key"])
def echoed_key() -> None:
    """An error repeats the key of the request."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            key = dict(scope.get("headers", ())).get(b"x-api-key", b"").decode("latin-1")

            async def send_changed(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 401:
                    message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                if message["type"] == "http.response.body" and b'"unauthorized"' in message.get("body", b""):
                    body = json.loads(message["body"])
                    message["body"] = json.dumps({**body, "message": f"the key {key} is not valid"}).encode()
                await send(message)

            await app(scope, receive, send_changed if scope["type"] == "http" else send)

        return changed

    put_before(wrap_app)


# -- HTTP-3 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-3.unknown-field")
def ignored_field() -> None:
    """Unknown fields of a new session are ignored."""
    CreateSessionBody.model_config["extra"] = "ignore"
    CreateSessionBody.model_rebuild(force=True)


@breaks("HTTP-3.wrong-type")
def coerced() -> None:
    """Values of the wrong type are coerced: "1" is 1."""
    CreateSessionBody.model_config["strict"] = False
    CreateSessionBody.model_rebuild(force=True)


@breaks("HTTP-3.range")
def clamped() -> None:
    """A maxTurns out of range is clamped."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            if isinstance(data.get("maxTurns"), int) and not isinstance(data["maxTurns"], bool):
                data["maxTurns"] = min(max(data["maxTurns"], 1), 1000)
            return original(model, data)

        return validated

    wrap(dependencies, "validated", around)


@breaks("HTTP-3.missing-field")
def defaulted_field() -> None:
    """A missing approvalId defaults to an empty string."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            presumed = {"ApproveBody": "approvalId", "RejectBody": "approvalId", "RespondBody": "ref"}
            if model.__name__ in presumed:
                data.setdefault(presumed[model.__name__], "")
            if model.__name__ == "RespondBody":
                data.setdefault("response", "")
            return original(model, data)

        return validated

    wrap(dependencies, "validated", around)


@breaks("HTTP-3.unknown-parameter")
def ignored_parameter() -> None:
    """Unknown query parameters are ignored."""
    dependencies.QueryModel.model_config["extra"] = "ignore"

    def around(original: Any) -> Any:
        def parsed_query(model: Any, params: Any) -> Any:
            known = {field.alias or name for name, field in model.model_fields.items()}
            return original(model, type(params)([pair for pair in params.multi_items() if pair[0] in known]))

        return parsed_query

    wrap(dependencies, "parsed_query", around)


@breaks("HTTP-3.ws-member")
def ignored_member() -> None:
    """Unknown members of a WebSocket action are ignored."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            known = {field.alias or name for name, field in model.model_fields.items()}
            return original(model, {name: value for name, value in data.items() if name in known})

        return validated

    wrap(websocket, "validated", around)


@breaks("HTTP-3.empty-body")
def no_empty_body() -> None:
    """An empty body is rejected although no field is required."""
    wrap(dependencies, "_required", lambda _: lambda _: True)


@breaks("HTTP-3.media-type")
def any_media_type() -> None:
    """Bodies of any media type are accepted."""
    wrap(dependencies, "_check_content_type", lambda _: lambda _: None)


# -- HTTP-4 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-4.malformed")
def lenient_parser() -> None:
    """A body that is not JSON is parsed as an object with its text."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            try:
                return original(raw)
            except strict.NotStrictJson as error:
                if "not valid at line" not in str(error):
                    raise
                return {"model": "scripted:x"}

        return parse_object

    wrap(dependencies, "parse_object", around)


@breaks("HTTP-4.not-object")
def array_crashes() -> None:
    """A JSON body that is not an object returns 500."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            try:
                return original(raw)
            except strict.NotStrictJson as error:
                if "must be an object" not in str(error):
                    raise
                raise TypeError("this is no object") from None

        return parse_object

    wrap(dependencies, "parse_object", around)


# Doubly escaped text belongs to a script and is not a surrogate.
_HALVES = rb"(?<!\\)(?:\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)"


@breaks("HTTP-4.surrogate", "HTTP-4.nothing-left")
def lone_surrogate_replaced() -> None:
    """A lone surrogate is accepted and replaced."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            text = re.sub(_HALVES, b"?", raw)
            return original(text)

        return parse_object

    wrap(dependencies, "parse_object", around)


def _lenient(**options: Any) -> None:
    """Use another decoder for JSON bodies."""
    usual: dict[str, Any] = {
        "object_pairs_hook": strict._object,
        "parse_int": strict._integer,
        "parse_float": strict._float,
        "parse_constant": strict._constant,
    }
    wrap(strict, "_DECODER", lambda _: json.JSONDecoder(**{**usual, **options}))


@breaks("HTTP-4.number", "HTTP-4.nothing-left")
def not_a_number() -> None:
    """NaN and infinities are parsed as 1."""
    _lenient(parse_constant=lambda _: 1, parse_float=lambda digits: min(float(digits), 1e300))


@breaks("HTTP-4.int64")
def any_integer() -> None:
    """An integer outside 64 bits is accepted and truncated."""
    _lenient(parse_int=lambda digits: max(min(int(digits), 2**63 - 1), -(2**63)))


@breaks("HTTP-4.duplicate-key", "HTTP-4.nothing-left")
def last_key_wins() -> None:
    """The last of several duplicate keys is used."""
    _lenient(object_pairs_hook=dict)


@breaks("HTTP-4.depth")
def any_depth() -> None:
    """JSON is parsed at any depth, until the parser overflows its stack and returns 500."""
    wrap(strict, "_check_depth", lambda _: lambda _: None)


@breaks("HTTP-4.nul", "HTTP-4.nothing-left")
def nul_removed() -> None:
    """The character U+0000 is removed from bodies."""

    def around(original: Any) -> Any:
        return lambda raw: original(raw.replace(b"\\u0000", b"").replace(b"\0", b""))

    wrap(dependencies, "parse_object", around)


@breaks("HTTP-4.bom")
def byte_order_mark() -> None:
    """A byte order mark is ignored."""
    wrap(dependencies, "parse_object", lambda original: lambda raw: original(raw.removeprefix(b"\xef\xbb\xbf")))


@breaks("HTTP-4.utf8")
def latin_1() -> None:
    """Invalid UTF-8 is decoded as another encoding."""
    wrap(dependencies, "parse_object", lambda original: lambda raw: original(raw.decode("utf-8", "replace").encode()))


@breaks("HTTP-4.nothing-left")
def half_created() -> None:
    """A session is created before its body is validated."""

    def around(original: Any) -> Any:
        def create_app(*args: Any, **options: Any) -> Any:
            made = original(*args, **options)
            registry = made.state.gateway.registry

            def parsed(read: Any) -> Any:
                def leaving(model: Any, raw: bytes) -> Any:
                    try:
                        return read(model, raw)
                    except BadRequest:
                        named = re.search(rb'"sessionId"\s*:\s*"([A-Za-z0-9_-]{1,128})"', raw)
                        if model is CreateSessionBody and named:
                            body = CreateSessionBody.model_validate(
                                {"model": "scripted:x", "sessionId": named[1].decode()}
                            )
                            tasks.append(
                                asyncio.get_running_loop().create_task(
                                    registry.create(Principal("default", "nobody"), body)
                                )
                            )
                        raise

                return leaving

            tasks: list[Any] = []
            wrap(dependencies, "parsed", parsed)
            return made

        return create_app

    wrap(server, "create_app", around)


# -- HTTP-5 ------------------------------------------------------------------------------------------------------------


def _limit(**limits: Any) -> None:
    for owner in (app, server):
        after(owner, "http_limits", lambda usual: replace(usual, **limits))


@breaks("HTTP-5.body")
def unlimited_body() -> None:
    """A body of any size is accepted."""
    _limit(body_bytes=2**40)


@breaks("HTTP-5.header-bytes")
def unlimited_headers() -> None:
    """Headers of any size are accepted."""
    _limit(header_bytes=2**30)


@breaks("HTTP-5.header-fields")
def unlimited_header_fields() -> None:
    """Any number of header fields is accepted."""
    _limit(header_fields=10**6)


@breaks("HTTP-5.url")
def unlimited_url() -> None:
    """A URL of any length is accepted."""
    _limit(url_bytes=2**20)


@breaks("HTTP-5.slow-headers")
def no_header_timeout() -> None:
    """Headers may take any time."""
    _limit(header_seconds=86_400.0)


@breaks("HTTP-5.slow-body")
def no_body_timeout() -> None:
    """A body may take any time."""
    _limit(body_seconds=86_400.0)


@breaks("HTTP-6.wrong-method")
def no_allow() -> None:
    """A wrong method returns 405 without Allow."""

    def change(headers: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in headers.items() if name != "Allow"}

    after(errors, "error_headers", change)
