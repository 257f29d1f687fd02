"""A callback tool of one session."""

from __future__ import annotations

from functools import cached_property

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import ToolResult


class CallbackTool:
    """Calls a callback tool for one session."""

    def __init__(self, definition: CallbackDefinition, client: CallbackClient, session_id: str) -> None:
        self._definition = definition
        self._client = client
        self._session_id = session_id

    @property
    def spec(self) -> ToolSpec:
        return self._definition.spec

    @cached_property
    def parameters(self) -> Parameters:
        """The compiled schema. Raises `InvalidSchema` if it was not checked at registration."""
        return Parameters(self._definition.parameters)

    async def run(self, call: ToolCall) -> ToolResult:
        """Call the tool. Arguments that do not match its schema are never sent (CB-2)."""
        try:
            error = self.parameters.error(call.args)
        except ValueError as invalid:
            error = str(invalid)
        if error:
            return ToolResult("error", error)
        return await self._client.call(self._definition, call, self._session_id)
