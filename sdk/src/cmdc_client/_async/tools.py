"""The tools of a session: registering, listing and removing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdc_client import operations
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.models import ToolEntry, ToolRegistered, ToolRemoved


class AsyncSessionTools:
    """The tools of one session."""

    def __init__(self, transport: AsyncTransport, session_id: str) -> None:
        self._transport = transport
        self._session_id = session_id

    async def register(
        self,
        *,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        callback_url: str,
        timeout_ms: int | None = None,
        requires_approval: bool | None = None,
        idempotent: bool | None = None,
        secret: str | None = None,
    ) -> ToolRegistered:
        """Give the agent a tool that is called over HTTP. The same name again replaces it.

        Without a `secret` the server makes one, and tells it in what this returns, and never again. Raises
        RegistrationFailed, BadRequest.
        """
        tool = {
            "name": name,
            "description": description,
            "parameters": dict(parameters),
            "callbackUrl": callback_url,
            "timeoutMs": timeout_ms,
            "requiresApproval": requires_approval,
            "idempotent": idempotent,
            "secret": secret,
        }
        return await self._transport.call(operations.register_tool(self._session_id, tool))

    async def list(self) -> list[ToolEntry]:
        """The tools the agent has, built-in ones and registered ones. Never a secret."""
        return (await self._transport.call(operations.list_tools(self._session_id))).tools

    async def remove(self, name: str) -> ToolRemoved:
        """Take a registered tool away from the agent. Raises NotFound."""
        return await self._transport.call(operations.remove_tool(self._session_id, name))
