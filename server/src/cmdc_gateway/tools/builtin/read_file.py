"""`read_file {path, offset?, limit?}`: read lines of a text file."""

from __future__ import annotations

from typing import BinaryIO, Final

from cmdc_gateway.tools.builtin.arguments import Arguments, integer, string
from cmdc_gateway.tools.builtin.definition import PATH, Definition
from cmdc_gateway.tools.builtin.file_tool import CancelToken, ToolFailed, file_tool
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, truncate
from cmdc_gateway.tools.workspace import Workspace

MAX_SKIPPED_BYTES: Final = 50_000_000


def read_lines(workspace: Workspace, args: Arguments, token: CancelToken) -> str:
    """Read lines of a file."""
    path, offset = string(args, "path"), integer(args, "offset", 1)
    limit = integer(args, "limit", 0) or None
    with workspace.open(path) as file:
        _skip_lines(file, offset - 1, path, token)
        return _read(file, offset, limit, token)


def _skip_lines(file: BinaryIO, count: int, path: str, token: CancelToken) -> None:
    skipped_bytes = lines = 0
    while lines < count:
        token.check()
        # A long line is read in parts.
        part = file.readline(MAX_OUTPUT)
        skipped_bytes += len(part)
        if not part:
            raise ToolFailed(f"{path!r} has {lines} lines; line {count + 1} does not exist")
        if skipped_bytes > MAX_SKIPPED_BYTES:
            raise ToolFailed(f"line {count + 1} of {path!r} is beyond the first {MAX_SKIPPED_BYTES} bytes")
        lines += part.endswith(b"\n")


def _read(file: BinaryIO, offset: int, limit: int | None, token: CancelToken) -> str:
    lines: list[bytes] = []
    size = 0
    while limit is None or len(lines) < limit:
        token.check()
        line = file.readline(MAX_OUTPUT + 1)
        if not line:
            break
        if size + len(line) > MAX_OUTPUT:
            if not lines:
                return truncate(line, f"line {offset} is longer than the maximum size of a result")
            return truncate(b"".join(lines), f"[truncated; continue with offset {offset + len(lines)}]")
        lines.append(line)
        size += len(line)
    return truncate(b"".join(lines))


READ_FILE: Final = Definition(
    name="read_file",
    description=(
        "Read a text file. Returns complete lines, from line `offset` (the first line is 1), at most `limit` lines and "
        f"{MAX_OUTPUT // 1024} KiB. A truncated result says at which offset to continue."
    ),
    properties={
        "path": PATH,
        "offset": {"type": "integer", "minimum": 1, "description": "The first line to read, from 1."},
        "limit": {"type": "integer", "minimum": 1, "description": "The maximum number of lines."},
    },
    required=("path",),
    idempotent=True,
    factory=file_tool(read_lines),
)
