"""`read_file {path, offset?, limit?}`: the lines of a text file."""

from __future__ import annotations

from typing import BinaryIO, Final

from cmdc_gateway.tools.builtin.arguments import Arguments, number, text
from cmdc_gateway.tools.builtin.base import PATH, Definition, Stop, ToolFailed
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, capped
from cmdc_gateway.tools.workspace import Workspace

MAX_SKIPPED: Final = 50_000_000

READ_FILE: Final = Definition(
    name="read_file",
    description=(
        "Read a text file. Gives whole lines as they are in the file, from line `offset` (the first line is 1), "
        f"at most `limit` lines and {MAX_OUTPUT // 1024} KiB; if the result was cut, it says which offset to go on with."
    ),
    properties={
        "path": PATH,
        "offset": {"type": "integer", "minimum": 1, "description": "The first line to read, from 1."},
        "limit": {"type": "integer", "minimum": 1, "description": "How many lines to read."},
    },
    required=("path",),
    idempotent=True,
)


def read_lines(workspace: Workspace, args: Arguments, stop: Stop) -> str:
    """Read lines of a file."""
    path, offset = text(args, "path"), number(args, "offset", 1)
    limit = number(args, "limit", 0) or None
    with workspace.open(path) as file:
        _skip_lines(file, offset - 1, path, stop)
        return _take_lines(file, offset, limit, stop)


def _skip_lines(file: BinaryIO, count: int, path: str, stop: Stop) -> None:
    skipped = lines = 0
    while lines < count:
        stop.check()
        piece = file.readline(MAX_OUTPUT)
        skipped += len(piece)
        if not piece:
            raise ToolFailed(f"{path!r} has {lines} lines; there is no line {count + 1}")
        if skipped > MAX_SKIPPED:
            raise ToolFailed(f"line {count + 1} of {path!r} is beyond the first {MAX_SKIPPED} bytes")
        lines += piece.endswith(b"\n")


def _take_lines(file: BinaryIO, offset: int, limit: int | None, stop: Stop) -> str:
    pieces: list[bytes] = []
    size = lines = 0
    while limit is None or lines < limit:
        stop.check()
        piece = file.readline(MAX_OUTPUT + 1)
        if not piece:
            break
        if size + len(piece) > MAX_OUTPUT:
            if not pieces:  # one line longer than a result may be: show its beginning
                return capped(piece, f"line {offset} is longer than a result may be")
            return capped(b"".join(pieces), f"[cut; go on with offset {offset + lines}]")
        pieces.append(piece)
        size += len(piece)
        lines += piece.endswith(b"\n")
    return capped(b"".join(pieces))
