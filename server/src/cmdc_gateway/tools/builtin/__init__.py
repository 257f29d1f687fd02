"""The tools that the gateway brings along, by name (§3.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.tools.builtin.ask_user import ASK_USER
from cmdc_gateway.tools.builtin.base import Definition, FileTool
from cmdc_gateway.tools.builtin.glob import GLOB, find_files
from cmdc_gateway.tools.builtin.grep import GREP, find_lines
from cmdc_gateway.tools.builtin.list_dir import LIST_DIR, list_names
from cmdc_gateway.tools.builtin.read_file import READ_FILE, read_lines
from cmdc_gateway.tools.builtin.shell import SHELL, Shell
from cmdc_gateway.tools.builtin.write_file import WRITE_FILE, write_text
from cmdc_gateway.tools.tool import Tool
from cmdc_gateway.tools.workspace import Workspace

BUILTIN: Final[dict[str, Definition]] = {
    definition.name: definition for definition in (READ_FILE, LIST_DIR, GLOB, GREP, WRITE_FILE, SHELL, ASK_USER)
}
"""Every built-in tool, in the order in which they are documented."""

READ_ONLY: Final = ("read_file", "list_dir", "glob", "grep")
"""Those that change nothing."""

_MAKERS: Final[dict[str, Callable[[Workspace], Tool]]] = {
    "read_file": partial(FileTool, READ_FILE, read_lines),
    "list_dir": partial(FileTool, LIST_DIR, list_names),
    "glob": partial(FileTool, GLOB, find_files),
    "grep": partial(FileTool, GREP, find_lines),
    "write_file": partial(FileTool, WRITE_FILE, write_text),
    "shell": Shell,
}

_ALIASES: Final = {
    f"{prefix}CMDC.Tool.{''.join(part.capitalize() for part in name.split('_'))}": name
    for name in BUILTIN
    for prefix in ("", "Elixir.")
}


def canonical_name(name: str) -> str | None:
    """The name of a built-in tool, given that or the original's module name; None if there is no such tool."""
    return name if name in BUILTIN else _ALIASES.get(name)


def builtin_spec(name: str) -> ToolSpec:
    """What the model is told of a tool. Raises KeyError for a name that is not canonical."""
    return BUILTIN[name].spec


def builtin_tool(name: str, workspace: Workspace) -> Tool:
    """A tool that works in this workspace.

    Raises:
        KeyError: the name is not canonical, or it is `ask_user`, which the kernel handles itself.
    """
    return _MAKERS[name](workspace)
