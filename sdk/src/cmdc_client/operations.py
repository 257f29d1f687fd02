"""The requests of the protocol, as values: what to send, and what is promised in return.

The generated functions know the paths, the methods and the bodies. They are used for that alone: how a request is sent,
tried again and answered is the same for all of them, and stands in one place (`_async/transport.py`).
"""

# The generator gives what a request is made of a private name, and has no other. What each operation does, the methods
# of the sessions tell, which have them one for one.
# ruff: noqa: SLF001, D103
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from cmdc_client._generated.api.decisions import approve as _approve
from cmdc_client._generated.api.decisions import reject as _reject
from cmdc_client._generated.api.decisions import respond as _respond
from cmdc_client._generated.api.history import get_messages as _get_messages
from cmdc_client._generated.api.history import get_stats as _get_stats
from cmdc_client._generated.api.history import get_usage as _get_usage
from cmdc_client._generated.api.service import get_capabilities as _get_capabilities
from cmdc_client._generated.api.service import healthz as _healthz
from cmdc_client._generated.api.sessions import abort_run as _abort_run
from cmdc_client._generated.api.sessions import create_session as _create_session
from cmdc_client._generated.api.sessions import delete_session as _delete_session
from cmdc_client._generated.api.sessions import get_session as _get_session
from cmdc_client._generated.api.sessions import issue_ticket as _issue_ticket
from cmdc_client._generated.api.sessions import list_sessions as _list_sessions
from cmdc_client._generated.api.sessions import post_prompt as _post_prompt
from cmdc_client._generated.api.tools import list_tools as _list_tools
from cmdc_client._generated.api.tools import register_tool as _register_tool
from cmdc_client._generated.api.tools import remove_tool as _remove_tool
from cmdc_client._generated.types import UNSET, Unset
from cmdc_client.answers import Promise
from cmdc_client.models import (
    AbortBody,
    AbortTaken,
    ApproveBody,
    Capabilities,
    CreateSessionBody,
    DecisionTaken,
    EventPage,
    Health,
    MessageList,
    PromptAccepted,
    PromptBody,
    RegisterToolBody,
    RejectBody,
    RespondBody,
    ResponseTaken,
    SessionCreated,
    SessionDeleted,
    SessionInfo,
    SessionList,
    SessionState,
    SessionStats,
    TenantUsage,
    TicketBody,
    TicketIssued,
    ToolList,
    ToolRegistered,
    ToolRemoved,
)

T = TypeVar("T")

Again = Literal["always", "with_key", "never"]
"""Whether a request whose answer was lost may be sent again: only if the server heeds idempotency keys, say."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and the promised answer."""

    method: str
    path: str
    promise: Promise[T]
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Mapping[str, Any] | None = None
    again: Again = "always"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def create_session(settings: Mapping[str, Any]) -> Call[SessionCreated]:
    """`settings` are the members of the body by their names on the wire; those that are None are left out."""
    body = CreateSessionBody.from_dict(_told(settings))
    return _posted(_create_session._get_kwargs(body=body, idempotency_key=_key()), Promise(SessionCreated, (201,)))


def list_sessions(*, limit: int | None, cursor: str | None, state: SessionState | None) -> Call[SessionList]:
    kwargs = _list_sessions._get_kwargs(limit=_given(limit), cursor=_given(cursor), state=_given(state))
    return _call(kwargs, Promise(SessionList))


# A server of the base protocol tells of a session only what is not here.
_BASE_INFO: Mapping[str, Any] = {
    "model": "",
    "createdAt": 0,
    "metadata": {},
    "queue": [],
    "pendingApprovals": [],
    "pendingQuestions": [],
    "cursor": "",
}


def get_session(session_id: str) -> Call[SessionInfo]:
    return _call(_get_session._get_kwargs(session_id), Promise(SessionInfo, base=_BASE_INFO))


def delete_session(session_id: str) -> Call[SessionDeleted]:
    return _call(_delete_session._get_kwargs(session_id), Promise(SessionDeleted), again="never")


def post_prompt(session_id: str, text: str) -> Call[PromptAccepted]:
    kwargs = _post_prompt._get_kwargs(session_id, body=PromptBody(text=text), idempotency_key=_key())
    return _posted(kwargs, Promise(PromptAccepted, (202,), base={"cursor": ""}))


def abort_run(session_id: str, reason: str | None) -> Call[AbortTaken]:
    kwargs = _abort_run._get_kwargs(session_id, body=AbortBody(reason=_given(reason)), idempotency_key=_key())
    return _posted(kwargs, Promise(AbortTaken, (200, 202)))


def issue_ticket(session_id: str, scope: Literal["read", "control"]) -> Call[TicketIssued]:
    kwargs = _issue_ticket._get_kwargs(session_id, body=TicketBody(scope=scope), idempotency_key=_key())
    return _posted(kwargs, Promise(TicketIssued, (201,)))


def approve(
    session_id: str, approval_id: str, args: Mapping[str, Any] | None, digest: str | None
) -> Call[DecisionTaken]:
    body = ApproveBody.from_dict(_told({"approvalId": approval_id, "args": args, "digest": digest}))
    kwargs = _approve._get_kwargs(session_id, body=body, idempotency_key=_key())
    return _call(kwargs, Promise(DecisionTaken))


def reject(session_id: str, approval_id: str, reason: str | None) -> Call[DecisionTaken]:
    body = RejectBody(approval_id=approval_id, reason=_given(reason))
    return _call(_reject._get_kwargs(session_id, body=body, idempotency_key=_key()), Promise(DecisionTaken))


def respond(session_id: str, ref: str, response: str) -> Call[ResponseTaken]:
    body = RespondBody(ref=ref, response=response)
    return _call(_respond._get_kwargs(session_id, body=body, idempotency_key=_key()), Promise(ResponseTaken))


def get_messages(session_id: str, *, limit: int | None, cursor: str | None) -> Call[MessageList]:
    kwargs = _get_messages._get_kwargs(session_id, limit=_given(limit), cursor=_given(cursor))
    return _call(kwargs, Promise(MessageList))


def get_stats(session_id: str) -> Call[SessionStats]:
    return _call(_get_stats._get_kwargs(session_id), Promise(SessionStats))


def get_usage() -> Call[TenantUsage]:
    return _call(_get_usage._get_kwargs(), Promise(TenantUsage))


def get_capabilities() -> Call[Capabilities]:
    return _call(_get_capabilities._get_kwargs(), Promise(Capabilities))


def healthz() -> Call[Health]:
    return _call(_healthz._get_kwargs(), Promise(Health))


def register_tool(session_id: str, tool: Mapping[str, Any]) -> Call[ToolRegistered]:
    """`tool` has the members of the body by their names on the wire; those that are None are left out."""
    body = RegisterToolBody.from_dict(_told(tool))
    kwargs = _register_tool._get_kwargs(session_id, body=body, idempotency_key=_key())
    return _posted(kwargs, Promise(ToolRegistered, (201,)))


def list_tools(session_id: str) -> Call[ToolList]:
    return _call(_list_tools._get_kwargs(session_id), Promise(ToolList))


def remove_tool(session_id: str, name: str) -> Call[ToolRemoved]:
    return _call(_remove_tool._get_kwargs(session_id, name), Promise(ToolRemoved), again="never")


# The generator cannot take the operation that answers with a stream, so the two ways to read events stand here.


def events_path(session_id: str) -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}/events"


def event_page(
    session_id: str, *, after: str | None, limit: int | None, types: Sequence[str] | None
) -> Call[EventPage]:
    params = _told({"after": after, "limit": limit, "types": ",".join(types) if types is not None else None})
    return Call(
        "GET",
        events_path(session_id),
        Promise(EventPage),
        params={name: str(value) for name, value in params.items()},
        headers={"Accept": "application/json"},
    )


# ----------------------------------------------------------------------------------------------------------------------


def _posted(kwargs: Mapping[str, Any], promise: Promise[T]) -> Call[T]:
    return _call(kwargs, promise, again="with_key")


def _call(kwargs: Mapping[str, Any], promise: Promise[T], *, again: Again = "always") -> Call[T]:
    params: Mapping[str, Any] = kwargs.get("params", {})
    headers: Mapping[str, str] = kwargs.get("headers", {})
    return Call(
        method=kwargs["method"].upper(),
        path=kwargs["url"],
        promise=promise,
        params={name: str(value) for name, value in params.items()},
        headers={name: value for name, value in headers.items() if name != "Content-Type"},
        body=kwargs.get("json"),
        again=again,
    )


def _key() -> str:
    return token_hex(16)


def _given(value: T | None) -> T | Unset:
    return UNSET if value is None else value


def _told(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}
