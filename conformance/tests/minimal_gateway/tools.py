"""The built-in tools: read_file, write_file and ask_user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minimal_gateway.errors import ApiError
from minimal_gateway.schema import Schema

ASK_USER = "ask_user"
NEEDS_APPROVAL = ("write_file", "shell")

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 1}


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": [*required],
        "additionalProperties": False,
    }


PARAMETERS: dict[str, Schema] = {
    "read_file": _object({"path": _TEXT}, offset=_COUNT, limit=_COUNT),
    "write_file": _object({"path": _TEXT, "content": _TEXT}),
    ASK_USER: _object({"question": _TEXT}, options={"type": "array", "items": _TEXT}),
}
_ALIASES = {"CMDC.Tool.ReadFile": "read_file", "CMDC.Tool.WriteFile": "write_file", "CMDC.Tool.AskUser": ASK_USER}


def resolve_tool(name: str) -> str:
    """The tool with this name or alias. Raises ApiError."""
    tool = _ALIASES.get(name, name)
    if tool not in PARAMETERS:
        raise ApiError("create_failed", f"unknown tool {name!r}; available: {', '.join(PARAMETERS)}")
    return tool


class Workspace:
    """A folder that confines all paths."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def inside(self, path: str, start: Path | None = None) -> Path:
        """Resolve a path. Raises ValueError if it is outside of the workspace."""
        found = ((start or self._root) / path).resolve()
        if "\0" in path or not found.is_relative_to(self._root):
            raise ValueError("the path is outside of the workspace")
        return found

    def run(self, tool: str, args: dict[str, Any], start: Path) -> str:
        """Run a tool; return its result. Raises OSError or ValueError."""
        path = self.inside(args["path"], start)
        if tool == "write_file":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(args["content"])
            return f"{len(args['content'])} characters written"
        lines = path.read_text().splitlines(keepends=True)[args.get("offset", 1) - 1 :]
        return "".join(lines[: args.get("limit", len(lines))])
