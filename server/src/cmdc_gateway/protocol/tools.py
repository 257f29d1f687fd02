"""Callback tools on the wire (§3.10, CB-1)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, MayBeAbsent, RequestBody


class RegisterToolBody(RequestBody):
    """A tool behind an HTTP address. What a field's value must hold beyond its type is answered with 422."""

    name: str = Field(description="`[A-Za-z0-9_-]{1,64}`")
    description: str
    parameters: dict[str, JsonValue] = Field(description="A JSON Schema of type object.")
    callback_url: str
    timeout_ms: int = Field(30_000, description="1 – 300000, for the whole call, in ms.")
    requires_approval: bool = False
    idempotent: bool = Field(False, description="The tool may be called again after a failure.")
    secret: LeftOut[str] = Field(None, description="`whsec_` and the base64 of 24 – 64 bytes; made if left out.")


class ToolRegistered(AnswerBody):
    """`secret` is there, once, when the server made it."""

    name: str
    status: Literal["registered"]
    secret: MayBeAbsent[str] = None


class ToolEntry(AnswerBody):
    """A tool the agent has."""

    name: str
    kind: Literal["builtin", "callback"]
    description: str
    parameters: dict[str, Any]
    callback_url: MayBeAbsent[str] = None
    timeout_ms: MayBeAbsent[int] = None
    requires_approval: bool
    idempotent: bool


class ToolList(AnswerBody):
    """The agent's tools."""

    tools: list[ToolEntry]


class ToolRemoved(AnswerBody):
    """The tool is gone."""

    name: str
    status: Literal["removed"]
