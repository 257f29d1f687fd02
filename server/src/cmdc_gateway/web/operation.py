"""How a route is described, beside its code, for the published contract."""

from __future__ import annotations

from typing import Any

from fastapi import Depends
from pydantic import BaseModel

from cmdc_gateway.protocol.service import ErrorBody
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody
from cmdc_gateway.web.dependencies import NoQuery, QueryModel, no_body, query
from cmdc_gateway.web.errors import STATUS

REQUEST_BODIES: dict[str, type[RequestBody]] = {}

_EVERYWHERE = ("bad_request", "unauthorized", "rate_limited", "internal", "unavailable")
_WITH_BODY = ("request_timeout", "payload_too_large", "unsupported_media_type")
_POSTED = ("idempotency_in_progress", "idempotency_mismatch")


def operation(
    summary: str,
    answer: type[AnswerBody] | None,
    *,
    status: int = 200,
    body: type[RequestBody] | None = None,
    takes: type[QueryModel] = NoQuery,
    errors: tuple[str, ...] = (),
    posted: bool = False,
    public: bool = False,
    more: dict[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Arguments for a FastAPI route: what it takes, what it answers, and every way it refuses.

    `errors` are codes of PROTOCOL §1 beside those that every such route has; `posted` adds those of HTTP-11.
    """
    codes = {*errors, *(() if public else _EVERYWHERE), *(_WITH_BODY if body else ()), *(_POSTED if posted else ())}
    responses: dict[int | str, dict[str, Any]] = {} if answer is None else {status: {"model": answer}}
    responses |= more or {}
    for code in sorted(codes, key=lambda code: (STATUS[code], code)):
        listed = responses.setdefault(STATUS[code], {"model": ErrorBody, "description": ""})
        listed["description"] = ", ".join(filter(None, (listed["description"], f"`{code}`")))
    extra: dict[str, Any] = {"parameters": _parameters(takes, posted=posted)}
    if body is not None:
        REQUEST_BODIES[body.__name__] = body
        required = any(field.is_required() for field in body.model_fields.values())
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if public:
        extra["security"] = []
    checks = [Depends(query(takes))] if takes is NoQuery else []
    if body is None:
        checks.append(Depends(no_body))
    return {
        "summary": summary,
        "status_code": status,
        "responses": responses,
        "response_model": None,
        "openapi_extra": {name: value for name, value in extra.items() if value != [] or name == "security"},
        "dependencies": checks,
    }


def _parameters(model: type[BaseModel], *, posted: bool) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    parameters: list[dict[str, Any]] = []
    for name, described in schema.get("properties", {}).items():
        kinds: list[dict[str, Any]] = described.pop("anyOf", [])
        shape = next((kind for kind in kinds if kind != {"type": "null"}), dict[str, Any]())
        shape |= {key: value for key, value in described.items() if key not in ("default", "title", "description")}
        described_as = {"description": described["description"]} if "description" in described else {}
        parameters.append({"name": name, "in": "query", "required": False, **described_as, "schema": shape})
    if posted:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key with the same body has one effect and one answer, for 24 hours.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        )
    return parameters
