"""The tools of one session: built-in ones it was created with, and registered callback tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

import rfc8785
from pydantic import JsonValue

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.kernel.turn import ASK_USER
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import Tool

EVERY_TOOL = "*"


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool bound to a session. `tool` is None for `ask_user`, which nothing executes."""

    spec: ToolSpec
    parameters: Parameters
    tool: Tool | None
    definition: CallbackDefinition | None = None


class Toolset:
    """An immutable set of tools by name, with the rules for calling them."""

    def __init__(self, tools: Iterable[BoundTool], approval: Iterable[str]) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._approval = frozenset(approval)

    def bound_tools(self) -> tuple[BoundTool, ...]:
        return tuple(self._tools.values())

    def get(self, name: str) -> BoundTool | None:
        return self._tools.get(name)

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tool descriptions for the model."""
        return tuple(
            replace(tool.spec, requires_approval=self.requires_approval(name)) for name, tool in self._tools.items()
        )

    def requires_approval(self, name: str) -> bool:
        """Whether calls of this tool need approval. Never for `ask_user`, which involves the user anyway (APP-5)."""
        if name == ASK_USER:
            return False
        tool = self._tools.get(name)
        declared = tool is not None and tool.spec.requires_approval
        return declared or name in self._approval or EVERY_TOOL in self._approval

    def call_error(self, name: str, args: dict[str, JsonValue]) -> str | None:
        """Why this call is invalid, or None if it is valid."""
        tool = self._tools.get(name)
        if tool is None:
            return f"this session has no tool {name!r}"
        error = tool.parameters.error(args)
        if error is not None:
            return f"the arguments of {name!r} do not match its schema: {error}"
        if self.requires_approval(name) and canonical(args) is None:
            return f"the arguments of {name!r} contain a number that cannot be represented exactly, so they cannot be shown for approval"
        return None

    def with_callback(self, tool: BoundTool) -> Toolset:
        """Return a copy with this callback tool, which replaces one of the same name.

        Raises:
            RegistrationFailed: a built-in tool has this name.
        """
        name = tool.spec.name
        existing = self._tools.get(name)
        if name == ASK_USER or (existing and existing.definition is None):
            raise RegistrationFailed(f"{name!r} is a built-in tool of this session; choose another name")
        return Toolset((self._tools | {name: tool}).values(), self._approval)

    def without(self, name: str) -> Toolset:
        """Return a copy without the tool of this name."""
        return Toolset([tool for key, tool in self._tools.items() if key != name], self._approval)


def digest(session_id: str, call: ToolCall) -> str:
    """The digest that binds an approval to a call: SHA-256 of its canonical JSON (RFC 8785, APP-3)."""
    canonical_call = canonical([session_id, call.id, call.name, call.args])
    assert canonical_call is not None, "validated by Toolset.call_error"
    return sha256(canonical_call).hexdigest()


def canonical(value: JsonValue) -> bytes | None:
    """Canonical JSON (RFC 8785), or None if the value cannot be represented exactly."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        return None
