"""Dependencies of the handlers, and the parsing behind them: principal, session, body, query and Idempotency-Key."""

from __future__ import annotations

import re
from email.message import Message as Header
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.datastructures import QueryParams

from cmdc_gateway.errors import BadRequest, Unauthorized, UnsupportedMediaType
from cmdc_gateway.protocol.strict import NotStrictJson, parse_object
from cmdc_gateway.protocol.wire import RequestBody
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.web.auth import auth_of
from cmdc_gateway.web.transport.body import read_body
from cmdc_gateway.web.transport.limits import HttpLimits

Body = TypeVar("Body", bound=RequestBody)
Query = TypeVar("Query", bound="QueryModel")

_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


class QueryModel(BaseModel):
    """Query parameters. Unknown ones are rejected (HTTP-3)."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


def _whole_number(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
        raise ValueError("must be a whole number in plain digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]


class NoQuery(QueryModel):
    """No query parameters."""


class PageQuery(QueryModel):
    """A page of a list."""

    limit: WholeNumber | None = Field(None, ge=1, le=1000, description="Maximum number of items to return.")
    cursor: str | None = Field(None, description="`nextCursor` of the previous page.")


# Dependencies are coroutines because FastAPI runs plain functions in a thread.


async def principal(request: Request) -> Principal:
    """Return the principal of the request's key."""
    return auth_of(request.scope).principal


async def session_key(request: Request, session_id: str) -> SessionKey:
    """Return the key of the session that the path names, within the principal's tenant (HTTP-8)."""
    return SessionKey(auth_of(request.scope).principal.tenant, session_id)


async def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key header, None if there is none (HTTP-11). Raises BadRequest."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    return checked_idempotency_key(values[0] if len(values) == 1 else "")


def checked_idempotency_key(key: str) -> str:
    """Return the key if it is valid. Raises BadRequest."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be sent once, as 1 to 255 visible ASCII characters")
    return key


PrincipalDep = Annotated[Principal, Depends(principal)]
KeyDep = Annotated[SessionKey, Depends(session_key)]
IdempotencyKeyDep = Annotated[str | None, Depends(idempotency_key)]


def body_of(model: type[Body]) -> Any:
    """Return a dependency that parses the request's body, strictly (HTTP-1, HTTP-3, HTTP-4, HTTP-5)."""

    async def parse(request: Request) -> Body:
        return await read_as(model, request)

    return Depends(parse)


async def read_as(model: type[Body], request: Request) -> Body:
    """Read and parse the request's body. Raises BadRequest, UnsupportedMediaType, and the errors of `read_body`."""
    raw = await _raw_body(request)
    if not auth_of(request.scope).is_valid():  # the key may have been revoked while the body was on its way
        raise Unauthorized
    if not raw and not _required(model):
        return model.model_validate({})
    _check_content_type(request)
    return parsed(model, raw)


def parsed(model: type[Body], raw: bytes) -> Body:
    """Parse JSON into a model. Raises BadRequest."""
    try:
        return validated(model, parse_object(raw))
    except NotStrictJson as error:
        raise BadRequest(f"the body is not acceptable JSON: {error}") from None


def validated(model: type[Body], data: dict[str, Any]) -> Body:
    """Validate parsed JSON. Raises BadRequest, which names each invalid field."""
    try:
        return model.model_validate(data)
    except ValidationError as errors:
        raise _bad_request(errors) from None


def query_of(model: type[Query]) -> Any:
    """Return a dependency that parses the query parameters (HTTP-3)."""

    async def parse(request: Request) -> Query:
        return parsed_query(model, request.query_params)

    return Depends(parse)


def parsed_query(model: type[Query], params: QueryParams) -> Query:
    """Validate query parameters. Raises BadRequest, also for a parameter that is repeated."""
    if not params:
        return model()
    names = [name for name, _ in params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise BadRequest(f"the parameter {name!r} is repeated", [(name, "is repeated")])
    try:
        return model.model_validate(dict(params))
    except ValidationError as errors:
        raise _bad_request(errors) from None


async def no_body(request: Request) -> None:
    """Read and drop a body that has no meaning here, within the usual limits."""
    headers = request.headers
    if "content-length" in headers or "transfer-encoding" in headers:  # else there is none (RFC 9112, 6.3)
        await _raw_body(request)


async def _raw_body(request: Request) -> bytes:
    limits = cast("HttpLimits", request.app.state.http_limits)
    return await read_body(request.receive, request.scope["headers"], limits)


def _required(model: type[BaseModel]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _check_content_type(request: Request) -> None:
    values = request.headers.getlist("content-type")
    if values == ["application/json"]:  # the common case
        return
    header = Header()
    header["Content-Type"] = values[0] if len(values) == 1 else "none/none"
    charset = header.get_content_charset("utf-8")
    if header.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(", ".join(values)[:100])


def _bad_request(errors: ValidationError) -> BadRequest:
    details = [
        (_path(error["loc"]), _sentence(error["type"], error["msg"])) for error in errors.errors(include_input=False)
    ]
    listed = "; ".join(f"{path}: {sentence}" if path else sentence for path, sentence in details[:5])
    return BadRequest(listed, details[:50])


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path[:200]


def _sentence(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "missing":
        return "is required"
    return message.removeprefix("Value error, ").removeprefix("Input ").lower()[:200]
