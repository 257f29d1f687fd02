"""The server about itself, and what belongs to no single session (§3.1, §3.11)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from cmdc_gateway.protocol.wire import AnswerBody, MayBeAbsent, RequestBody

Scope = Literal["read", "control"]


class ErrorDetail(AnswerBody):
    """One thing that is wrong with a body, and where."""

    path: str
    message: str


class ErrorBody(AnswerBody):
    """Every answer that is not a success (HTTP-2). Beside these, a code has its own members."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    error: str = Field(description="The code.")
    message: str = Field(description="A sentence for people.")
    details: MayBeAbsent[list[ErrorDetail]] = None
    status: MayBeAbsent[str] = Field(None, description="With `already_resolved`: what was decided.")
    retry_after: MayBeAbsent[int] = Field(None, description="With `rate_limited`: whole seconds.")
    earliest: MayBeAbsent[str] = Field(None, description="With `cursor_expired`: the log can be read after this.")
    latest: MayBeAbsent[str] = Field(None, description="With `cursor_expired`: the end of the log.")


class ActiveSessions(AnswerBody):
    """How many sessions are in memory."""

    active: int


class TrackedKeys(AnswerBody):
    """How many keys have used anything."""

    tracked_keys: int = Field(alias="tracked_keys")


class Health(AnswerBody):
    """The server is alive."""

    status: Literal["ok"]
    version: str
    sessions: ActiveSessions
    meter: TrackedKeys
    timestamp: str = Field(description="ISO 8601, UTC, with microseconds and Z.")


class Readiness(AnswerBody):
    """The server can serve."""

    status: Literal["ready"]


class TicketBody(RequestBody):
    """What a ticket is to allow."""

    scope: Scope = Field("read", description="`read` opens a stream; `control` may also act on the WebSocket.")


class TicketIssued(AnswerBody):
    """A single-use credential for one session."""

    ticket: str
    expires_at: int = Field(description="ms since 1970.")


class Limits(AnswerBody):
    """The bounds of this server. Sizes are bytes; times are ms."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"replay_events"})

    body_bytes: int
    header_bytes: int
    queued_prompts: int
    ws_message_bytes: int
    replay_events: int | None = Field(description="How many events of a session are kept at least; null means all.")
    heartbeat_ms: int
    grace_ms: int
    rpm: int = Field(description="Requests a minute and key; 0 means no limit.")


class Capabilities(AnswerBody):
    """What a client may rely on."""

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
    """A page of the log; `next` is the cursor to go on with."""

    events: list[EventEntry]
    next: str
    earliest: str
    latest: str
