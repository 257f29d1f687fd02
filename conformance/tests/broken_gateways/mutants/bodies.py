"""Gateways that read bodies wrongly (HTTP-1 … HTTP-5)."""

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
from broken_gateways.surgery import Answer, Message, Receive, Scope, Send, after, change_answers, put_before, wrap

# -- HTTP-1, HTTP-2 ----------------------------------------------------------------------------------------------------


@breaks("HTTP-1.json", shown_by=["EP-stats"])
def plain_text() -> None:
    """A session's figures are declared as text/plain."""

    def change(answer: Answer) -> None:
        if answer.status == 200:
            answer.headers["content-type"] = "text/plain"

    change_answers(r"/v1/sessions/[^/]+/stats", change)


@breaks("HTTP-1.fields", "EP-session.get", shown_by=["EP-session.get"])
def snake_case() -> None:
    """A session's figures are in snake_case."""

    def change(answer: Answer) -> None:
        if answer.status == 200:
            answer.body["uptime_ms"] = answer.body.pop("uptimeMs")

    change_answers(r"/v1/sessions/[^/]+", change, method="GET")


@breaks("HTTP-2.body", "HTTP-6.wrong-method", shown_by=["HTTP-6.wrong-method"])
def error_of_the_framework() -> None:
    """A wrong method is answered with the web framework's own body."""

    def change(answer: Answer) -> None:
        if answer.status == 405:
            answer.body = {"detail": "Method Not Allowed"}

    change_answers(r"/.*", change, method="[A-Z]+")


@breaks("HTTP-2.leak", shown_by=["HTTP-7.revoked", "HTTP-7.wrong-key"])
def echoed_key() -> None:
    """A refusal repeats the key that was sent."""

    def front(app: Any) -> Any:
        async def changed(scope: Scope, receive: Receive, send: Send) -> None:
            key = dict(scope.get("headers", ())).get(b"x-api-key", b"").decode("latin-1")

            async def through(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 401:
                    message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
                if message["type"] == "http.response.body" and b'"unauthorized"' in message.get("body", b""):
                    body = json.loads(message["body"])
                    message["body"] = json.dumps({**body, "message": f"the key {key} is not valid"}).encode()
                await send(message)

            await app(scope, receive, through if scope["type"] == "http" else send)

        return changed

    put_before(front)


# -- HTTP-3 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-3.unknown-field")
def ignored_field() -> None:
    """A field of a new session that is not known is ignored."""
    CreateSessionBody.model_config["extra"] = "ignore"
    CreateSessionBody.model_rebuild(force=True)


@breaks("HTTP-3.wrong-type")
def coerced() -> None:
    """Values of the wrong type are made to fit: "1" is 1."""
    CreateSessionBody.model_config["strict"] = False
    CreateSessionBody.model_rebuild(force=True)


@breaks("HTTP-3.range")
def clamped() -> None:
    """MaxTurns out of its range is moved into it."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            if isinstance(data.get("maxTurns"), int) and not isinstance(data["maxTurns"], bool):
                data["maxTurns"] = min(max(data["maxTurns"], 1), 1000)
            return original(model, data)

        return validated

    wrap(dependencies, "validated", around)


@breaks("HTTP-3.missing-field")
def presumed_field() -> None:
    """A decision that names no approval is taken for one about the approval of no name."""

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
    """Query parameters that are not known are ignored."""
    dependencies.QueryModel.model_config["extra"] = "ignore"

    def around(original: Any) -> Any:
        def parsed_query(model: Any, params: Any) -> Any:
            known = {field.alias or name for name, field in model.model_fields.items()}
            return original(model, type(params)([pair for pair in params.multi_items() if pair[0] in known]))

        return parsed_query

    wrap(dependencies, "parsed_query", around)


@breaks("HTTP-3.ws-member")
def ignored_member() -> None:
    """A member of a WebSocket action that is not known is ignored."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            known = {field.alias or name for name, field in model.model_fields.items()}
            return original(model, {name: value for name, value in data.items() if name in known})

        return validated

    wrap(websocket, "validated", around)


@breaks("HTTP-3.empty-body")
def no_empty_body() -> None:
    """An empty body is refused where no field is required."""
    wrap(dependencies, "_required", lambda _: lambda _: True)


@breaks("HTTP-3.media-type")
def any_media_type() -> None:
    """A body is read whatever it is declared as."""
    wrap(dependencies, "_check_content_type", lambda _: lambda _: None)


# -- HTTP-4 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-4.malformed")
def forgiving_parser() -> None:
    """What cannot be read as JSON is taken for an empty object with the text it was looked for."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            try:
                return original(raw)
            except strict.NotStrictJson as flaw:
                if "not valid at line" not in str(flaw):
                    raise
                return {"model": "scripted:x"}

        return parse_object

    wrap(dependencies, "parse_object", around)


@breaks("HTTP-4.not-object")
def array_taken() -> None:
    """JSON that is no object is a defect of the server: 500."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            try:
                return original(raw)
            except strict.NotStrictJson as flaw:
                if "must be an object" not in str(flaw):
                    raise
                raise TypeError("this is no object") from None

        return parse_object

    wrap(dependencies, "parse_object", around)


# What is escaped itself is text of a script, and no half of anything.
_HALVES = rb"(?<!\\)(?:\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)"


@breaks("HTTP-4.surrogate", "HTTP-4.nothing-left")
def half_a_character() -> None:
    """Half of a surrogate pair is read, and replaced."""

    def around(original: Any) -> Any:
        def parse_object(raw: bytes) -> Any:
            text = re.sub(_HALVES, b"?", raw)
            return original(text)

        return parse_object

    wrap(dependencies, "parse_object", around)


def _lenient(**options: Any) -> None:
    """Another decoder for the JSON of bodies."""
    usual: dict[str, Any] = {
        "object_pairs_hook": strict._object,
        "parse_int": strict._integer,
        "parse_float": strict._float,
        "parse_constant": strict._constant,
    }
    wrap(strict, "_DECODER", lambda _: json.JSONDecoder(**{**usual, **options}))


@breaks("HTTP-4.number", "HTTP-4.nothing-left")
def not_a_number() -> None:
    """NaN and infinities are read as 1."""
    _lenient(parse_constant=lambda _: 1, parse_float=lambda digits: min(float(digits), 1e300))


@breaks("HTTP-4.int64")
def any_integer() -> None:
    """An integer outside 64 bits is read, and cut to fit."""
    _lenient(parse_int=lambda digits: max(min(int(digits), 2**63 - 1), -(2**63)))


@breaks("HTTP-4.duplicate-key", "HTTP-4.nothing-left")
def last_key_wins() -> None:
    """Of duplicate keys the last one counts."""
    _lenient(object_pairs_hook=dict)


@breaks("HTTP-4.depth")
def any_depth() -> None:
    """Nesting is read at any depth, until the parser's stack is at its end: 500."""
    wrap(strict, "_check_depth", lambda _: lambda _: None)


@breaks("HTTP-4.nul", "HTTP-4.nothing-left")
def nul_taken() -> None:
    """The character U+0000 is left out of what is read."""

    def around(original: Any) -> Any:
        return lambda raw: original(raw.replace(b"\\u0000", b"").replace(b"\0", b""))

    wrap(dependencies, "parse_object", around)


@breaks("HTTP-4.bom")
def byte_order_mark() -> None:
    """A byte order mark is passed over."""
    wrap(dependencies, "parse_object", lambda original: lambda raw: original(raw.removeprefix(b"\xef\xbb\xbf")))


@breaks("HTTP-4.utf8")
def latin_1() -> None:
    """Bytes that are no UTF-8 are read as something else."""
    wrap(dependencies, "parse_object", lambda original: lambda raw: original(raw.decode("utf-8", "replace").encode()))


@breaks("HTTP-4.nothing-left")
def half_created() -> None:
    """A session is made before its body is found to be wrong."""

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
def endless_body() -> None:
    """A body of any length is read."""
    _limit(body_bytes=2**40)


@breaks("HTTP-5.header-bytes")
def endless_headers() -> None:
    """A header block of any length is read."""
    _limit(header_bytes=2**30)


@breaks("HTTP-5.header-fields")
def countless_headers() -> None:
    """Any number of header fields is read."""
    _limit(header_fields=10**6)


@breaks("HTTP-5.url")
def endless_url() -> None:
    """A URL of any length is read."""
    _limit(url_bytes=2**20)


@breaks("HTTP-5.slow-headers")
def patient_with_headers() -> None:
    """A client may take its time with the headers."""
    _limit(header_seconds=86_400.0)


@breaks("HTTP-5.slow-body")
def patient_with_bodies() -> None:
    """A client may take its time with the body."""
    _limit(body_seconds=86_400.0)


@breaks("HTTP-6.wrong-method")
def no_allow() -> None:
    """A wrong method is refused without saying which would be right."""

    def change(headers: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in headers.items() if name != "Allow"}

    after(errors, "error_headers", change)
