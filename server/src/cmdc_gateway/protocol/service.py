"""Bodies of health, capabilities, tickets, event pages, and errors."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from cmdc_gateway.protocol.wire import AnswerBody, MayBeAbsent, RequestBody

Scope = Literal["read", "control"]


class ErrorDetail(AnswerBody):
    """A validation error: what is wrong and where."""

    path: str
    message: str


class ErrorBody(AnswerBody):
    """Body of every error response (HTTP-2). Some codes add members of their own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    error: str = Field(description="Error code.")
    message: str = Field(description="Human-readable message.")
    details: MayBeAbsent[list[ErrorDetail]] = None
    status: MayBeAbsent[str] = Field(None, description="With `already_resolved`: the decision that applies.")
    retry_after: MayBeAbsent[int] = Field(None, description="With `rate_limited`: whole seconds to wait.")
    earliest: MayBeAbsent[str] = Field(
        None, description="With `cursor_expired`: the cursor just before the first kept event."
    )
    latest: MayBeAbsent[str] = Field(None, description="With `cursor_expired`: the cursor at the end of the log.")


class ActiveSessions(AnswerBody):
    """Number of sessions in memory."""

    active: int


class TrackedKeys(AnswerBody):
    """Number of API keys with recorded usage."""

    tracked_keys: int = Field(alias="tracked_keys")


class Health(AnswerBody):
    """The server is alive."""

    status: Literal["ok"]
    version: str
    sessions: ActiveSessions
    meter: TrackedKeys
    timestamp: str = Field(description="ISO 8601 in UTC, with microseconds and `Z`.")


class Readiness(AnswerBody):
    """The server is ready."""

    status: Literal["ready"]


class TicketBody(RequestBody):
    """Scope of a new ticket."""

    scope: Scope = Field("read", description="`read`: events only. `control`: also WebSocket actions.")


class TicketIssued(AnswerBody):
    """A single-use credential for one connection to one session."""

    ticket: str
    expires_at: int = Field(description="Milliseconds since the Unix epoch.")


class Limits(AnswerBody):
    """Limits of this server. Sizes are in bytes, times in milliseconds."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"replay_events"})

    body_bytes: int
    header_bytes: int
    queued_prompts: int
    ws_message_bytes: int
    replay_events: int | None = Field(description="Minimum number of events kept per session; null: all.")
    heartbeat_ms: int
    grace_ms: int
    rpm: int = Field(description="Requests per minute and API key; 0: no limit.")


class Capabilities(AnswerBody):
    """Features, models, tools, and limits that a client may rely on."""

    protocol: Literal["0.1"]
    extended: list[str]
    models: list[str]
    tools: list[str]
    plugins: list[str]
    durability: Literal["memory", "process", "disk"]
    limits: Limits


class EventEntry(AnswerBody):
    """An event in a page of the log."""

    id: str
    event: str
    data: dict[str, Any]
    at: int


class EventPage(AnswerBody):
    """A page of the event log; `next` is the cursor of the next page."""

    events: list[EventEntry]
    next: str
    earliest: str
    latest: str
