"""Request and response bodies of tools, and of calls to them (CB-1, CB-2)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, MayBeAbsent, RequestBody


class RegisterToolBody(RequestBody):
    """A tool called over HTTP. A field of the right type with an invalid value returns 422."""

    name: str = Field(description="`[A-Za-z0-9_-]{1,64}`")
    description: str
    parameters: dict[str, JsonValue] = Field(description="JSON Schema of type `object`.")
    callback_url: str
    timeout_ms: int = Field(30_000, description="1 – 300000 ms, for the whole call including retries.")
    requires_approval: bool = False
    idempotent: bool = Field(False, description="Whether a call may be retried after it may have arrived.")
    secret: LeftOut[str] = Field(None, description="`whsec_` and 24 – 64 bytes in base64; default: generated.")


class ToolRegistered(AnswerBody):
    """The tool was registered. A generated `secret` is returned only here."""

    name: str
    status: Literal["registered"]
    secret: MayBeAbsent[str] = None


class ToolEntry(AnswerBody):
    """A tool of the session."""

    name: str
    kind: Literal["builtin", "callback"]
    description: str
    parameters: dict[str, Any]
    callback_url: MayBeAbsent[str] = None
    timeout_ms: MayBeAbsent[int] = None
    requires_approval: bool
    idempotent: bool


class ToolList(AnswerBody):
    """Tools of the session."""

    tools: list[ToolEntry]


class ToolRemoved(AnswerBody):
    """The tool was deleted."""

    name: str
    status: Literal["removed"]


class CallbackCall(AnswerBody):
    """A tool call, sent to `callbackUrl` in a POST request."""

    call_id: str = Field(description="ID of the call; the same for retries.")
    tool_name: str
    args: dict[str, Any] = Field(description="Arguments, valid against `parameters`.")
    session_id: str


class CallbackResult(AnswerBody):
    """Result of the call. A result that is not a string is passed to the model as JSON text."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    result: Any


class CallbackError(AnswerBody):
    """Error of the call. It is passed to the model, and the run continues."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    error: str
