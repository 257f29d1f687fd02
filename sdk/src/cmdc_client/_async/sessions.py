"""Creates, finds and lists the sessions of a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from cmdc_client import operations
from cmdc_client._async.session import AsyncSession
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.errors import ProtocolError
from cmdc_client.models import ApprovalSettings, Budget, SessionState, SessionSummary


class AsyncSessions:
    """The sessions of the tenant."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
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
    ) -> AsyncSession:
        """Create a session.

        The session exists until it is deleted. It is a context manager that deletes it at the end:
        `async with await client.sessions.create(model=…) as session:`.

        Args:
            model: The model, as `provider:model`. Optional if the `blueprint` names one.
            session_id: An id of your choice; by default the server generates one.
            system_prompt: The system prompt.
            working_dir: The working directory of the tools, inside the server's workspace.
            tools: The names of the built-in tools to enable.
            plugins: The names of the plugins to enable; `human_approval` makes `shell` and `write_file` need approval.
            blueprint: A named set of settings from the server's configuration.
            max_turns: The maximum number of model calls per run.
            max_tokens: The maximum number of output tokens per model call.
            skills_dirs: Directories with skills, inside the server's workspace.
            provider_opts: Options of the model calls.
            approval: Which tool calls need approval, and for how long they wait for it.
            metadata: Your own key-value pairs, which the server stores and returns.
            budget: The limits on tokens and cost for the whole session.

        Raises:
            CreateFailed: A model, tool, plugin or option is not available.
            SessionExists: The tenant already has a session with this id.
            BadRequest: A value is invalid.
        """
        settings = {
            "model": model,
            "sessionId": session_id,
            "systemPrompt": system_prompt,
            "workingDir": working_dir,
            "tools": _as_list(tools),
            "plugins": _as_list(plugins),
            "blueprint": blueprint,
            "maxTurns": max_turns,
            "maxTokens": max_tokens,
            "skillsDirs": _as_list(skills_dirs),
            "providerOpts": provider_opts,
            "approval": approval.to_dict() if approval is not None else None,
            "metadata": metadata,
            "budget": budget.to_dict() if budget is not None else None,
        }
        created = await self._transport.send(operations.create_session(settings))
        return AsyncSession(self._transport, created.session_id)

    async def get(self, session_id: str) -> AsyncSession:
        """Get an existing session. Raises NotFound or SessionDead."""
        return AsyncSession(
            self._transport, (await self._transport.send(operations.get_session(session_id))).session_id
        )

    async def list(
        self, *, state: SessionState | None = None, page_size: int | None = None
    ) -> AsyncGenerator[SessionSummary]:
        """Iterate over the sessions of the tenant, newest first, optionally only over those in one state.

        The sessions are requested in pages of `page_size`. Raises ApiError, ProtocolError or ConnectionFailed.
        """
        cursor: str | None = None
        while True:
            page = await self._transport.send(operations.list_sessions(limit=page_size, cursor=cursor, state=state))
            for summary in page.sessions:
                yield summary
            if page.next_cursor is None:
                return
            if page.next_cursor == cursor:
                raise ProtocolError("GET /v1/sessions", f"the page after {cursor!r} names itself as the next page")
            cursor = page.next_cursor


def _as_list(values: Sequence[str] | None) -> list[str] | None:
    if isinstance(values, str):  # which is a sequence of strings too, and certainly a mistake
        raise TypeError("expected a list of strings, not a string")
    return None if values is None else [*values]
