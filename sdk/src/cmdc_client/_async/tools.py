"""Registers, lists and removes the tools of a session."""

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
        """Register a tool that the gateway calls over HTTP. A tool with the same name is replaced.

        Args:
            name: The name by which the model calls the tool: 1 to 64 of `A-Z a-z 0-9 _ -`.
            description: What the tool does, for the model.
            parameters: The JSON Schema of the arguments, with `"type": "object"`.
            callback_url: The URL to which the gateway sends the calls.
            timeout_ms: The limit for one call, in ms.
            requires_approval: Whether every call needs approval.
            idempotent: Whether the gateway may repeat a call whose outcome is unknown.
            secret: The secret that signs the calls. By default the server generates one and returns it here only.

        Raises:
            RegistrationFailed: The tool cannot be registered, for instance because its URL is not allowed.
            BadRequest: A value is invalid.
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
        return await self._transport.send(operations.register_tool(self._session_id, tool))

    async def list(self) -> list[ToolEntry]:
        """List the tools of the agent, built-in and registered. Secrets are not included."""
        return (await self._transport.send(operations.list_tools(self._session_id))).tools

    async def remove(self, name: str) -> ToolRemoved:
        """Remove a registered tool. Raises NotFound."""
        return await self._transport.send(operations.remove_tool(self._session_id, name))
