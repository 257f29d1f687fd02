"""Tool plugins, found through the entry points of the group `cmdc_gateway.tools`.

An entry point's name is the name of the tool; its object is a `ToolPlugin`. The built-in tools are registered in the same
way, in the gateway's `pyproject.toml`. To add one, a package declares

    [project.entry-points."cmdc_gateway.tools"]
    query_database = "cmdc_acme:QUERY_DATABASE"

Sessions can use a tool only if the operator lists it in `[tools] offered`; those in `[tools] approval` always require
approval. A plugin is imported when the first session with its tool is loaded.
"""

from __future__ import annotations

from typing import Protocol

from cmdc_gateway import extensions
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.tools import builtin
from cmdc_gateway.tools.tool import Tool
from cmdc_gateway.tools.workspace import Workspace


class ToolPlugin(Protocol):
    """A tool that runs in the server, before it belongs to a session."""

    @property
    def spec(self) -> ToolSpec:
        """What the model is given. `spec.name` is the name of the entry point."""
        ...

    def create(self, workspace: Workspace) -> Tool | None:
        """The tool for a session that works in this workspace. Only `ask_user`, which the kernel handles, has none."""
        ...


def tool_names() -> tuple[str, ...]:
    """The names of the installed tools, sorted. Imports none of them."""
    return extensions.names("cmdc_gateway.tools")


def find_tool(name: str) -> ToolPlugin | None:
    """The tool of this name; None if no installed package has it."""
    return extensions.load("cmdc_gateway.tools", name)


def canonical_name(name: str) -> str | None:
    """The name of an installed tool, given that name or a module name of the original gateway; None if there is none."""
    return name if name in tool_names() else _MODULE_NAMES.get(name)


_MODULE_NAMES = {
    f"{prefix}CMDC.Tool.{''.join(part.capitalize() for part in name.split('_'))}": name
    for name in builtin.NAMES
    for prefix in ("", "Elixir.")
}
