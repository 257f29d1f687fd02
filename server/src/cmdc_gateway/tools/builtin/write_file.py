"""`write_file {path, content}`: a file as a whole."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.protocol.encoding import whole_text
from cmdc_gateway.tools.builtin.arguments import Arguments, text
from cmdc_gateway.tools.builtin.base import PATH, Definition, Stop
from cmdc_gateway.tools.workspace import Workspace

WRITE_FILE: Final = Definition(
    name="write_file",
    description=(
        "Write a text file as a whole: it is made, or replaced if it is there. Folders on the way are made. "
        "Nobody ever sees half of it."
    ),
    properties={"path": PATH, "content": {"type": "string", "description": "The whole new text of the file."}},
    required=("path", "content"),
    idempotent=True,
)


def write_text(workspace: Workspace, args: Arguments, stop: Stop) -> str:
    """Make or replace a file."""
    path, content = text(args, "path"), whole_text(text(args, "content")).encode()
    stop.check()
    workspace.write(path, content)
    return f"wrote {len(content)} bytes to {path}"
