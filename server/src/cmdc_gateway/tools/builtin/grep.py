"""`grep {pattern, path?, glob?}`: find lines that match a regular expression."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, string
from cmdc_gateway.tools.builtin.definition import PATH, Definition
from cmdc_gateway.tools.builtin.file_tool import CancelToken, file_tool
from cmdc_gateway.tools.builtin.file_tree import FileTree
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, truncate
from cmdc_gateway.tools.builtin.patterns import Pattern, line_pattern, path_pattern
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

MAX_BYTES: Final = 50_000_000
MAX_FILE: Final = 10_000_000
MAX_LINE: Final = 500
_BINARY_SAMPLE: Final = 8192


def find_lines(workspace: Workspace, args: Arguments, token: CancelToken) -> str:
    """Find lines in files."""
    return _Search(workspace, args, token).result()


class _Search:
    def __init__(self, workspace: Workspace, args: Arguments, token: CancelToken) -> None:
        self._workspace = workspace
        self._token = token
        self._pattern = line_pattern(string(args, "pattern"))
        self._glob = path_pattern(string(args, "glob").removeprefix("./")) if "glob" in args else None
        self._path = string(args, "path", ".")
        self._bytes_read = 0
        self._notes: set[str] = set()

    def result(self) -> str:
        lines: list[str] = []
        size = 0
        for path in self._paths():
            for line in self._lines(path):
                lines.append(line)
                size += len(line)
                if size > MAX_OUTPUT:
                    return truncate("".join(lines))
        return truncate("".join(lines), " ".join(sorted(self._notes))) or "[no line matches]"

    def _paths(self) -> Iterator[str]:
        if not self._is_folder():
            with self._workspace.open(self._path):  # raises if it is not a file either
                pass
            yield self._path
            return
        tree = FileTree(self._workspace, self._path, self._token)
        for file in tree.files():
            self._token.check()
            if self._glob is None or self._glob.fullmatch(os.fsencode(file.relative)):
                if self._bytes_read >= MAX_BYTES:
                    self._notes.add(f"[not all files were searched: stopped after {MAX_BYTES} bytes]")
                    return
                yield file.path
        if tree.incomplete:
            self._notes.add(tree.note())

    def _is_folder(self) -> bool:
        try:
            with self._workspace.entries(self._path):
                return True
        except WorkspaceError:
            return False

    def _lines(self, path: str) -> Iterator[str]:
        for number, line in matching_lines(self._pattern, self._content(path)):
            self._token.check()
            text = line[:MAX_LINE].decode(errors="replace")
            yield f"{path}:{number}:{text}{'…' if len(line) > MAX_LINE else ''}\n"

    def _content(self, path: str) -> bytes:
        """The content of a text file; empty if the file is binary, too large or deleted."""
        try:
            with self._workspace.open(path) as file:
                content = file.read(_BINARY_SAMPLE)
                if b"\0" not in content:
                    content += file.read(MAX_FILE + 1 - len(content))
        except WorkspaceError:
            return b""
        self._bytes_read += len(content)
        if len(content) > MAX_FILE:
            self._notes.add(f"[files over {MAX_FILE} bytes were skipped]")
            return b""
        return b"" if b"\0" in content[:_BINARY_SAMPLE] else content


def matching_lines(pattern: Pattern, content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that match, with their numbers from 1."""
    position, number = 0, 1
    while position < len(content) and (match := pattern.search(content, position)):
        start = content.rfind(b"\n", 0, match.start()) + 1
        if start >= len(content):
            return  # an empty match after the last line
        end = content.find(b"\n", match.end())
        end = len(content) if end < 0 else end
        number += content.count(b"\n", position, start)
        yield number, content[start:end].removesuffix(b"\r")
        position, number = end + 1, number + 1


GREP: Final = Definition(
    name="grep",
    description=(
        "Search files for lines that match a regular expression (RE2 syntax: no look-around, no back-references). "
        "Returns path:line number:line. Searches one file, or all files below a folder; skips binary files and files "
        f"over {MAX_FILE // 1_000_000} MB."
    ),
    properties={
        "pattern": {"type": "string", "minLength": 1, "description": "For example (?i)error|warning"},
        "path": PATH | {"description": "The folder or file to search; default: the working folder."},
        "glob": {"type": "string", "minLength": 1, "description": "Only files whose path matches, e.g. **/*.py"},
    },
    required=("pattern",),
    idempotent=True,
    factory=file_tool(find_lines),
)
