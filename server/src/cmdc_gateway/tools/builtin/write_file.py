"""`write_file {path, content}`: create or replace a file."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.protocol.encoding import whole_text
from cmdc_gateway.tools.builtin.arguments import Arguments, string
from cmdc_gateway.tools.builtin.definition import PATH, Definition
from cmdc_gateway.tools.builtin.file_tool import CancelToken, file_tool
from cmdc_gateway.tools.workspace import Workspace


def write_text(workspace: Workspace, args: Arguments, token: CancelToken) -> str:
    """Create or replace a file."""
    path, content = string(args, "path"), whole_text(string(args, "content")).encode()
    token.check()
    workspace.write(path, content)
    return f"wrote {len(content)} bytes to {path}"


WRITE_FILE: Final = Definition(
    name="write_file",
    description=(
        "Create a text file, or replace it if it exists. Missing folders are created. The file is written atomically."
    ),
    properties={"path": PATH, "content": {"type": "string", "description": "The complete text of the file."}},
    required=("path", "content"),
    idempotent=True,
    factory=file_tool(write_text),
)
