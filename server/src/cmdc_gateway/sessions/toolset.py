"""The tools of one session: what it was created with, and what was registered since."""

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
    """A tool in its place: how it is offered, what its arguments must be, and what runs. `ask_user` runs nothing."""

    spec: ToolSpec
    parameters: Parameters
    tool: Tool | None
    definition: CallbackDefinition | None = None


class Toolset:
    """Tools by name, and what holds for calling them."""

    def __init__(self, fittings: Iterable[BoundTool], approval: Iterable[str]) -> None:
        self._tools = {fitting.spec.name: fitting for fitting in fittings}
        self._approval = frozenset(approval)

    def bound_tools(self) -> tuple[BoundTool, ...]:
        return tuple(self._tools.values())

    def get(self, name: str) -> BoundTool | None:
        return self._tools.get(name)

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as they are offered to the model."""
        return tuple(
            replace(fitting.spec, requires_approval=self.requires_approval(name))
            for name, fitting in self._tools.items()
        )

    def requires_approval(self, name: str) -> bool:
        """Whether a person must decide about calls of this tool. Never for `ask_user`: it is a person already (APP-5)."""
        if name == ASK_USER:
            return False
        fitting = self._tools.get(name)
        own = fitting is not None and fitting.spec.requires_approval
        return own or name in self._approval or EVERY_TOOL in self._approval

    def error(self, name: str, args: dict[str, JsonValue]) -> str | None:
        """Why this tool cannot be called so, or None."""
        fitting = self._tools.get(name)
        if fitting is None:
            return f"this session has no tool {name!r}"
        found = fitting.parameters.error(args)
        if found is not None:
            return f"the arguments of {name!r} do not fit its schema: {found}"
        if self.requires_approval(name) and canonical(args) is None:
            return f"the arguments of {name!r} hold a number too large to be shown exactly for approval"
        return None

    def with_callback(self, fitting: BoundTool) -> Toolset:
        """This toolbox with a callback tool put in, in the place of one of the same name.

        Raises:
            RegistrationFailed: the name is that of a built-in tool.
        """
        name = fitting.spec.name
        present = self._tools.get(name)
        if name == ASK_USER or (present and present.definition is None):
            raise RegistrationFailed(f"{name!r} is a built-in tool of this session; choose another name")
        return Toolset((self._tools | {name: fitting}).values(), self._approval)

    def without(self, name: str) -> Toolset:
        return Toolset([fitting for key, fitting in self._tools.items() if key != name], self._approval)


def digest(session_id: str, call: ToolCall) -> str:
    """What an approval is bound to: SHA-256 of the canonical JSON (RFC 8785) of the call (APP-3)."""
    canonical_call = canonical([session_id, call.id, call.name, call.args])
    assert canonical_call is not None, "checked by Toolbox.flaw"
    return sha256(canonical_call).hexdigest()


def canonical(value: JsonValue) -> bytes | None:
    """Canonical JSON (RFC 8785), or None for a value that it cannot carry exactly."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        return None
