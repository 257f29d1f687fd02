"""Checks the responses of a gateway against its published OpenAPI document."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema_rs

Schema = dict[str, Any]

# Generic HTTP and CORS headers, which the document does not list.
_USUAL_HEADERS = {
    *("cache-control", "connection", "content-length", "content-type", "date", "transfer-encoding", "vary"),
    *("access-control-allow-origin", "access-control-expose-headers", "x-accel-buffering"),
}


class NotAsDocumented(AssertionError):
    """A response differs from the document."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the document."""

    method: str
    path: str
    described: Schema

    @property
    def name(self) -> str:
        return self.described["operationId"]

    def takes(self, request: httpx.Request) -> bool:
        path = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.path))
        return request.method == self.method and re.fullmatch(path, request.url.path) is not None


@dataclass(slots=True)
class Contract:
    """An OpenAPI document that validates every response. `seen` collects operation, status and error code."""

    document: Schema
    seen: set[tuple[str, int, str]] = field(default_factory=set[tuple[str, int, str]])

    @property
    def operations(self) -> list[Operation]:
        return [
            Operation(method.upper(), path, described)
            for path, methods in self.document["paths"].items()
            for method, described in methods.items()
        ]

    async def look_at(self, response: httpx.Response) -> None:
        """Validate a response, as an httpx event hook; the body of a stream is not read. Raises NotAsDocumented."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self.judge(response, None)
        else:
            self.judge(response, await response.aread())

    def judge(self, response: httpx.Response, content: bytes | None) -> None:
        """Compare a response with the documentation of its operation. Raises NotAsDocumented."""
        operation = self._operation(response.request)
        answer = operation.described["responses"].get(str(response.status_code))
        where = f"{operation.name}, {response.status_code}"
        if answer is None:
            raise NotAsDocumented(f"{where}: this status is not documented\n{response.text[:500]}")
        kind = response.headers["content-type"].partition(";")[0]
        if kind not in answer["content"]:
            raise NotAsDocumented(f"{where}: {kind} is not documented")
        self._judge_headers(where, answer, response.headers)
        code = ""
        if content is not None and kind == "application/json":
            body = json.loads(content)
            self._judge_body(where, answer["content"][kind]["schema"], body)
            if response.status_code >= 400:
                code = body["error"]
                if code not in answer["content"][kind]["examples"]:
                    raise NotAsDocumented(f"{where}: the code {code} is not documented")
            elif response.request.method == "POST" and response.request.content:
                sent = operation.described["requestBody"]["content"]["application/json"]["schema"]
                self._judge_body(f"{where}, the request that was accepted", sent, json.loads(response.request.content))
        self.seen.add((operation.name, response.status_code, code))

    def validator(self, schema: Schema) -> jsonschema_rs.Draft202012Validator:
        """A validator for a schema that refers to the document's components."""
        return jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})

    def _judge_body(self, where: str, schema: Schema, body: Any) -> None:
        errors = [
            f"{'/'.join(map(str, error.instance_path))}: {error.message}"
            for error in self.validator(schema).iter_errors(body)
        ]
        if errors:
            raise NotAsDocumented(f"{where}: {'; '.join(errors)}\n{body}")

    def _judge_headers(self, where: str, answer: Schema, headers: httpx.Headers) -> None:
        documented = {name.lower(): self._resolved(described) for name, described in answer.get("headers", {}).items()}
        undocumented = headers.keys() - documented.keys() - _USUAL_HEADERS
        missing = {name for name, described in documented.items() if described.get("required")} - headers.keys()
        if undocumented or missing:
            raise NotAsDocumented(f"{where}: headers not documented: {undocumented}; not sent: {missing}")

    def _resolved(self, described: Schema) -> Schema:
        name = described["$ref"].rpartition("/")[2]
        return self.document["components"]["headers"][name]

    def _operation(self, request: httpx.Request) -> Operation:
        for operation in self.operations:
            if operation.takes(request):
                return operation
        raise NotAsDocumented(f"{request.method} {request.url.path} is not documented")
