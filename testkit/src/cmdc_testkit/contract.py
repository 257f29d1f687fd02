"""Validates responses against the published OpenAPI document, more strictly than the suite's monitors do.

The bodies are validated with the suite's schemas. In addition, every status, media type, header and error code has to be
documented for its operation, and so does the body of every request that succeeds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import jsonschema_rs
from cmdc_conformance import schemas

Schema = dict[str, Any]

# Headers that any HTTP response may have, and those of CORS. The document does not list them.
_COMMON_HEADERS = {
    *("cache-control", "connection", "content-length", "content-type", "date", "transfer-encoding", "vary"),
    *("access-control-allow-origin", "access-control-expose-headers", "x-accel-buffering"),
}


class ContractViolation(AssertionError):
    """The gateway returned something that its document does not describe."""


@dataclass(frozen=True)
class Operation:
    """An operation of the document."""

    method: str
    path: str
    definition: Schema

    @property
    def name(self) -> str:
        return self.definition["operationId"]

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.path)))

    def matches(self, request: httpx.Request) -> bool:
        return request.method == self.method and self._pattern.fullmatch(request.url.path) is not None


@dataclass(slots=True)
class Contract:
    """The published document. `seen` has the operation, status and error code of every response so far."""

    seen: set[tuple[str, int, str]] = field(default_factory=set[tuple[str, int, str]])
    document: Schema = field(default_factory=lambda: dict(schemas.document("openapi")))
    operations: list[Operation] = field(init=False)

    def __post_init__(self) -> None:
        self.operations = [
            Operation(method.upper(), path, definition)
            for path, methods in self.document["paths"].items()
            for method, definition in methods.items()
        ]

    async def validate_response(self, response: httpx.Response) -> None:
        """Validate a response; an event hook of httpx. The body of a stream is left to its reader."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self.validate(response, None)
        else:
            self.validate(response, await response.aread())

    def validate(self, response: httpx.Response, content: bytes | None) -> None:
        """Validate a response and its body. Raises ContractViolation."""
        operation = self._operation(response.request)
        documented = operation.definition["responses"].get(str(response.status_code))
        where = f"{operation.name}, {response.status_code}"
        if documented is None:
            raise ContractViolation(f"{where}: the status is not documented\n{response.text[:500]}")
        media_type = response.headers["content-type"].partition(";")[0]
        if media_type not in documented["content"]:
            raise ContractViolation(f"{where}: {media_type} is not documented")
        self._validate_headers(where, documented, response.headers)
        code = ""
        if content is not None and media_type == "application/json":
            body = json.loads(content)
            errors = schemas.response_errors(operation.route, response.status_code, extended=True)
            _raise_for(where, [] if errors is None else list(errors(body)), body)
            if response.status_code >= 400:
                code = body["error"]
                if code not in documented["content"][media_type]["examples"]:
                    raise ContractViolation(f"{where}: the code {code} is not documented")
            elif response.request.method == "POST" and response.request.content:
                self._validate_request(operation, json.loads(response.request.content))
        self.seen.add((operation.name, response.status_code, code))

    def validator(self, schema: Schema) -> jsonschema_rs.Draft202012Validator:
        """A validator of a schema that may refer to the document's components."""
        return jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})

    def _validate_request(self, operation: Operation, body: Any) -> None:
        validator = self.validator(operation.definition["requestBody"]["content"]["application/json"]["schema"])
        errors = [
            f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(body)
        ]
        _raise_for(f"{operation.name}, the accepted request", errors, body)

    def _validate_headers(self, where: str, documented: Schema, headers: httpx.Headers) -> None:
        listed = {name.lower(): self._resolved(header) for name, header in documented.get("headers", {}).items()}
        undocumented = headers.keys() - listed.keys() - _COMMON_HEADERS
        missing = {name for name, header in listed.items() if header.get("required")} - headers.keys()
        if undocumented or missing:
            raise ContractViolation(f"{where}: undocumented headers: {undocumented}; missing headers: {missing}")

    def _resolved(self, reference: Schema) -> Schema:
        name = reference["$ref"].rpartition("/")[2]
        return self.document["components"]["headers"][name]

    def _operation(self, request: httpx.Request) -> Operation:
        for operation in self.operations:
            if operation.matches(request):
                return operation
        raise ContractViolation(f"{request.method} {request.url.path} is not documented")


def _raise_for(where: str, errors: list[str], body: Any) -> None:
    if errors:
        raise ContractViolation(f"{where}: {'; '.join(errors)}\n{body}")
