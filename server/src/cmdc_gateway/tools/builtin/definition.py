"""The definition of a built-in tool: a plugin with a description, a schema and a factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pydantic import JsonValue

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import Tool
from cmdc_gateway.tools.workspace import Workspace

PATH: Final[dict[str, JsonValue]] = {
    "type": "string",
    "description": "Relative to the working folder; cannot leave the workspace.",
}


@dataclass(frozen=True)
class Definition:
    """A built-in tool before it has a workspace. `ask_user` has no factory: the kernel handles it."""

    name: str
    description: str
    properties: dict[str, JsonValue]
    required: tuple[str, ...] = ()
    idempotent: bool = False
    factory: Callable[[Definition, Workspace], Tool] | None = None

    @cached_property
    def spec(self) -> ToolSpec:
        schema: dict[str, JsonValue] = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }
        return ToolSpec(self.name, self.description, schema, idempotent=self.idempotent)

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.spec.parameters)

    def create(self, workspace: Workspace) -> Tool | None:
        """The tool for this workspace."""
        return self.factory(self, workspace) if self.factory is not None else None
