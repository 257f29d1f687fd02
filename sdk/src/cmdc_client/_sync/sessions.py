# Derived from _async/sessions.py by derive_sync.py: change that, and run this again.
"""The sessions of a client: making, finding and listing them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from cmdc_client import operations
from cmdc_client._sync.session import Session
from cmdc_client._sync.transport import Transport
from cmdc_client.errors import ProtocolError
from cmdc_client.models import ApprovalSettings, Budget, SessionState, SessionSummary


class Sessions:
    """The sessions of one client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        model: str | None = None,
        session_id: str | None = None,
        system_prompt: str | None = None,
        working_dir: str | None = None,
        tools: Sequence[str] | None = None,
        plugins: Sequence[str] | None = None,
        blueprint: str | None = None,
        max_turns: int | None = None,
        max_tokens: int | None = None,
        skills_dirs: Sequence[str] | None = None,
        provider_opts: Mapping[str, Any] | None = None,
        approval: ApprovalSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> Session:
        """Make an agent. `model` is `provider:model`, and may be left out where a `blueprint` gives it.

        The session stays until it is deleted. It is a context manager that does so at the end:
        `with client.sessions.create(model=…) as session:`. Raises CreateFailed, SessionExists, BadRequest.
        """
        settings = {
            "model": model,
            "sessionId": session_id,
            "systemPrompt": system_prompt,
            "workingDir": working_dir,
            "tools": _listed(tools),
            "plugins": _listed(plugins),
            "blueprint": blueprint,
            "maxTurns": max_turns,
            "maxTokens": max_tokens,
            "skillsDirs": _listed(skills_dirs),
            "providerOpts": provider_opts,
            "approval": approval.to_dict() if approval is not None else None,
            "metadata": metadata,
            "budget": budget.to_dict() if budget is not None else None,
        }
        created = self._transport.call(operations.create_session(settings))
        return Session(self._transport, created.session_id)

    def get(self, session_id: str) -> Session:
        """The session of this id. Raises NotFound, SessionDead."""
        return Session(
            self._transport, (self._transport.call(operations.get_session(session_id))).session_id
        )

    def list(
        self, *, state: SessionState | None = None, page_size: int | None = None
    ) -> Generator[SessionSummary]:
        """Iterate over the sessions of this tenant, newest first; all of them, or those in one state.

        A page at a time is asked for. Raises ApiError, ProtocolError or ConnectionFailed.
        """
        cursor: str | None = None
        while True:
            page = self._transport.call(operations.list_sessions(limit=page_size, cursor=cursor, state=state))
            for summary in page.sessions:
                yield summary
            if page.next_cursor is None:
                return
            if page.next_cursor == cursor:
                raise ProtocolError("GET /v1/sessions", f"the page after {cursor!r} says that it comes next itself")
            cursor = page.next_cursor


def _listed(values: Sequence[str] | None) -> list[str] | None:  # a string is a sequence too, and surely a mistake
    if isinstance(values, str):
        raise TypeError("a list of strings is expected, not a string")
    return None if values is None else [*values]
