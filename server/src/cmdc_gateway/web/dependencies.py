"""What routes are given: who calls, what they sent, and where things are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import Message as Header
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.datastructures import QueryParams

from cmdc_gateway.errors import BadRequest, Unauthorized, UnsupportedMediaType
from cmdc_gateway.protocol.strict import NotStrictJson, parse_object
from cmdc_gateway.protocol.wire import RequestBody
from cmdc_gateway.store.store import SessionKey
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.web.transport.limits import HttpLimits, read_body

Body = TypeVar("Body", bound=RequestBody)
Query = TypeVar("Query", bound="QueryModel")

_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


class QueryModel(BaseModel):
    """Parameters of a URL. Those a class does not name are refused (HTTP-3)."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


def _whole_number(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
        raise ValueError("must be a whole number in plain digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]


class NoQuery(QueryModel):
    """No parameters at all."""


class PageQuery(QueryModel):
    """Which page of a list."""

    limit: WholeNumber | None = Field(None, ge=1, le=1000, description="Maximum number of items to return.")
    cursor: str | None = Field(None, description="`nextCursor` of the previous page.")


@dataclass(frozen=True, slots=True)
class AuthContext:
    """A request that was let in. `ticket_scope` is set where a ticket let it in; `lasts` says whether it still would be."""

    principal: Principal
    is_valid: Callable[[], bool]
    ticket_scope: str | None = None


def auth_context(request: Request) -> AuthContext:
    """What the gate let in."""
    return cast("AuthContext", request.state.auth)


async def principal(request: Request) -> Principal:  # FastAPI runs what is not async in a thread
    """Who calls."""
    return auth_context(request).principal


async def session_key(request: Request, session_id: str) -> SessionKey:
    """The session a path names, within the caller's tenant (HTTP-8)."""
    return SessionKey(auth_context(request).principal.tenant, session_id)


async def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key header (HTTP-11)."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    return checked_idempotency_key(values[0] if len(values) == 1 else "")


def checked_idempotency_key(key: str) -> str:
    """The key, if it is one. Raises BadRequest."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be given once, as 1 to 255 visible ASCII characters")
    return key


PrincipalDep = Annotated[Principal, Depends(principal)]
KeyDep = Annotated[SessionKey, Depends(session_key)]
IdempotencyKeyDep = Annotated[str | None, Depends(idempotency_key)]


def body(model: type[Body]) -> Any:
    """A dependency that gives the request's body as `model`, strictly (HTTP-1, HTTP-3, HTTP-4, HTTP-5)."""

    async def parse(request: Request) -> Body:
        return await read_as(model, request)

    return Depends(parse)


async def read_as(model: type[Body], request: Request) -> Body:
    """The request's body as `model`."""
    raw = await _raw_body(request)
    if not auth_context(request).is_valid():  # the body took its time, and the key was taken away meanwhile
        raise Unauthorized
    if not raw and not _required(model):
        return model.model_validate({})
    _check_content_type(request)
    return parsed(model, raw)


def parsed(model: type[Body], raw: bytes) -> Body:
    """Bytes of JSON as `model`. Raises BadRequest."""
    try:
        return validated(model, parse_object(raw))
    except NotStrictJson as flaw:
        raise BadRequest(f"the body is not acceptable JSON: {flaw}") from None


def validated(model: type[Body], data: dict[str, Any]) -> Body:
    """Parsed JSON as `model`. Raises BadRequest, naming each field that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as flaws:
        raise _refusal(flaws) from None


def query(model: type[Query]) -> Callable[[Request], Awaitable[Query]]:
    """A dependency that gives the URL's parameters as `model`. One given twice is refused."""

    async def parse(request: Request) -> Query:
        return parsed_query(model, request.query_params)

    return parse


def parsed_query(model: type[Query], params: QueryParams) -> Query:
    """Parameters as `model`. Raises BadRequest."""
    if not params:
        return model()
    names = [name for name, _ in params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise BadRequest(f"the parameter {name!r} is given more than once", [(name, "given more than once")])
    try:
        return model.model_validate(dict(params))
    except ValidationError as flaws:
        raise _refusal(flaws) from None


async def no_body(request: Request) -> None:
    """Read and drop a body that means nothing here, within the usual bounds."""
    headers = request.headers
    if "content-length" in headers or "transfer-encoding" in headers:  # else there is none (RFC 9112, 6.3)
        await _raw_body(request)


def _limits(request: Request) -> HttpLimits:
    return cast("HttpLimits", request.app.state.http_limits)


async def _raw_body(request: Request) -> bytes:
    return await read_body(request.receive, request.scope["headers"], _limits(request))


def _required(model: type[BaseModel]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _check_content_type(request: Request) -> None:
    values = request.headers.getlist("content-type")
    if values == ["application/json"]:  # as nearly everybody writes it
        return
    header = Header()
    header["Content-Type"] = values[0] if len(values) == 1 else "none/none"
    charset = header.get_content_charset("utf-8")
    if header.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(", ".join(values)[:100])


def _refusal(flaws: ValidationError) -> BadRequest:
    details = [(_path(flaw["loc"]), _sentence(flaw["type"], flaw["msg"])) for flaw in flaws.errors(include_input=False)]
    listed = "; ".join(f"{path}: {sentence}" if path else sentence for path, sentence in details[:5])
    return BadRequest(listed, details[:50])


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path[:200]


def _sentence(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind == "missing":
        return "is required"
    return message.removeprefix("Value error, ").removeprefix("Input ").lower()[:200]
