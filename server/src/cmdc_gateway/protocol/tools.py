"""Callback tools on the wire (§3.10, CB-1)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue

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


class CallbackCall(AnswerBody):
    """A call of your tool, as the server posts it to `callbackUrl`."""

    call_id: str = Field(description="Names this call; the same when the server tries again.")
    tool_name: str
    args: dict[str, Any] = Field(description="What holds for `parameters`.")
    session_id: str


class CallbackResult(AnswerBody):
    """What your tool found. A result that is not a string reaches the model as JSON text."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    result: Any


class CallbackError(AnswerBody):
    """Why your tool could not do it. The model is told so, and the run goes on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    error: str
