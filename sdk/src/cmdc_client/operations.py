"""The requests of the protocol as values: what to send, and which response to expect.

The generated functions build paths, methods and bodies, and are used only for that. Sending, retrying and parsing are
the same for all requests and are implemented in `_async/transport.py`.
"""

# The generator offers the parts of a request only through a private function. The methods of the sessions correspond to
# these functions one to one and document what each operation does.
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
from cmdc_client.responses import ExpectedResponse

T = TypeVar("T")

RetryMode = Literal["always", "with_key", "never"]
"""Whether a request may be repeated if its response was lost; `with_key` if the server supports idempotency keys."""


@dataclass(frozen=True, slots=True)
class ApiRequest(Generic[T]):
    """One request, and the response that is expected."""

    method: str
    path: str
    expected: ExpectedResponse[T]
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Mapping[str, Any] | None = None
    retry: RetryMode = "always"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def create_session(settings: Mapping[str, Any]) -> ApiRequest[SessionCreated]:
    """`settings` are the members of the body by their names on the wire; those that are None are omitted."""
    body = CreateSessionBody.from_dict(_without_none(settings))
    return _idempotent_request(
        _create_session._get_kwargs(body=body, idempotency_key=_new_key()), ExpectedResponse(SessionCreated, (201,))
    )


def list_sessions(*, limit: int | None, cursor: str | None, state: SessionState | None) -> ApiRequest[SessionList]:
    kwargs = _list_sessions._get_kwargs(limit=_or_unset(limit), cursor=_or_unset(cursor), state=_or_unset(state))
    return _request(kwargs, ExpectedResponse(SessionList))


# The members that a server of the base protocol omits.
_BASE_PROTOCOL_INFO: Mapping[str, Any] = {
    "model": "",
    "createdAt": 0,
    "metadata": {},
    "queue": [],
    "pendingApprovals": [],
    "pendingQuestions": [],
    "cursor": "",
}


def get_session(session_id: str) -> ApiRequest[SessionInfo]:
    return _request(_get_session._get_kwargs(session_id), ExpectedResponse(SessionInfo, defaults=_BASE_PROTOCOL_INFO))


def delete_session(session_id: str) -> ApiRequest[SessionDeleted]:
    return _request(_delete_session._get_kwargs(session_id), ExpectedResponse(SessionDeleted), retry="never")


def post_prompt(session_id: str, text: str) -> ApiRequest[PromptAccepted]:
    kwargs = _post_prompt._get_kwargs(session_id, body=PromptBody(text=text), idempotency_key=_new_key())
    return _idempotent_request(kwargs, ExpectedResponse(PromptAccepted, (202,), defaults={"cursor": ""}))


def abort_run(session_id: str, reason: str | None) -> ApiRequest[AbortTaken]:
    kwargs = _abort_run._get_kwargs(session_id, body=AbortBody(reason=_or_unset(reason)), idempotency_key=_new_key())
    return _idempotent_request(kwargs, ExpectedResponse(AbortTaken, (200, 202)))


def issue_ticket(session_id: str, scope: Literal["read", "control"]) -> ApiRequest[TicketIssued]:
    kwargs = _issue_ticket._get_kwargs(session_id, body=TicketBody(scope=scope), idempotency_key=_new_key())
    return _idempotent_request(kwargs, ExpectedResponse(TicketIssued, (201,)))


def approve(
    session_id: str, approval_id: str, args: Mapping[str, Any] | None, digest: str | None
) -> ApiRequest[DecisionTaken]:
    body = ApproveBody.from_dict(_without_none({"approvalId": approval_id, "args": args, "digest": digest}))
    kwargs = _approve._get_kwargs(session_id, body=body, idempotency_key=_new_key())
    return _request(kwargs, ExpectedResponse(DecisionTaken))


def reject(session_id: str, approval_id: str, reason: str | None) -> ApiRequest[DecisionTaken]:
    body = RejectBody(approval_id=approval_id, reason=_or_unset(reason))
    return _request(
        _reject._get_kwargs(session_id, body=body, idempotency_key=_new_key()), ExpectedResponse(DecisionTaken)
    )


def respond(session_id: str, ref: str, response: str) -> ApiRequest[ResponseTaken]:
    body = RespondBody(ref=ref, response=response)
    return _request(
        _respond._get_kwargs(session_id, body=body, idempotency_key=_new_key()), ExpectedResponse(ResponseTaken)
    )


def get_messages(session_id: str, *, limit: int | None, cursor: str | None) -> ApiRequest[MessageList]:
    kwargs = _get_messages._get_kwargs(session_id, limit=_or_unset(limit), cursor=_or_unset(cursor))
    return _request(kwargs, ExpectedResponse(MessageList))


def get_stats(session_id: str) -> ApiRequest[SessionStats]:
    return _request(_get_stats._get_kwargs(session_id), ExpectedResponse(SessionStats))


def get_usage() -> ApiRequest[TenantUsage]:
    return _request(_get_usage._get_kwargs(), ExpectedResponse(TenantUsage))


def get_capabilities() -> ApiRequest[Capabilities]:
    return _request(_get_capabilities._get_kwargs(), ExpectedResponse(Capabilities))


def healthz() -> ApiRequest[Health]:
    return _request(_healthz._get_kwargs(), ExpectedResponse(Health))


def register_tool(session_id: str, tool: Mapping[str, Any]) -> ApiRequest[ToolRegistered]:
    """`tool` has the members of the body by their names on the wire; those that are None are omitted."""
    body = RegisterToolBody.from_dict(_without_none(tool))
    kwargs = _register_tool._get_kwargs(session_id, body=body, idempotency_key=_new_key())
    return _idempotent_request(kwargs, ExpectedResponse(ToolRegistered, (201,)))


def list_tools(session_id: str) -> ApiRequest[ToolList]:
    return _request(_list_tools._get_kwargs(session_id), ExpectedResponse(ToolList))


def remove_tool(session_id: str, name: str) -> ApiRequest[ToolRemoved]:
    return _request(_remove_tool._get_kwargs(session_id, name), ExpectedResponse(ToolRemoved), retry="never")


# The generator does not support an operation that responds with a stream, so reading events is written by hand.


def events_path(session_id: str) -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}/events"


def event_page(
    session_id: str, *, after: str | None, limit: int | None, types: Sequence[str] | None
) -> ApiRequest[EventPage]:
    params = _without_none({"after": after, "limit": limit, "types": ",".join(types) if types is not None else None})
    return ApiRequest(
        "GET",
        events_path(session_id),
        ExpectedResponse(EventPage),
        params={name: str(value) for name, value in params.items()},
        headers={"Accept": "application/json"},
    )


# ----------------------------------------------------------------------------------------------------------------------


def _idempotent_request(kwargs: Mapping[str, Any], expected: ExpectedResponse[T]) -> ApiRequest[T]:
    return _request(kwargs, expected, retry="with_key")


def _request(kwargs: Mapping[str, Any], expected: ExpectedResponse[T], *, retry: RetryMode = "always") -> ApiRequest[T]:
    params: Mapping[str, Any] = kwargs.get("params", {})
    headers: Mapping[str, str] = kwargs.get("headers", {})
    return ApiRequest(
        method=kwargs["method"].upper(),
        path=kwargs["url"],
        expected=expected,
        params={name: str(value) for name, value in params.items()},
        headers={name: value for name, value in headers.items() if name != "Content-Type"},
        body=kwargs.get("json"),
        retry=retry,
    )


def _new_key() -> str:
    return token_hex(16)


def _or_unset(value: T | None) -> T | Unset:
    return UNSET if value is None else value


def _without_none(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}
