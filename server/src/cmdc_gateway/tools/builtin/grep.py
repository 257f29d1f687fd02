"""`grep {pattern, path?, glob?}`: lines that match a regular expression."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, text
from cmdc_gateway.tools.builtin.base import PATH, Definition, Stop
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, capped
from cmdc_gateway.tools.builtin.patterns import Pattern, line_pattern, path_pattern
from cmdc_gateway.tools.builtin.walk import Walk
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

MAX_BYTES: Final = 50_000_000
MAX_FILE: Final = 10_000_000
MAX_LINE: Final = 500
_BINARY_SAMPLE: Final = 8192

GREP: Final = Definition(
    name="grep",
    description=(
        "Search files for lines that match a regular expression (RE2 syntax: no look-around, no back-references). "
        "Gives path:line number:line. Looks through a folder and everything below it, or one file; binary files and "
        f"files over {MAX_FILE // 1_000_000} MB are left out."
    ),
    properties={
        "pattern": {"type": "string", "minLength": 1, "description": "For example (?i)error|warning"},
        "path": PATH | {"description": "The folder or file to search; the working folder if left out."},
        "glob": {"type": "string", "minLength": 1, "description": "Only files whose path matches, e.g. **/*.py"},
    },
    required=("pattern",),
    idempotent=True,
)


def find_lines(workspace: Workspace, args: Arguments, stop: Stop) -> str:
    """Find lines in files."""
    return _Search(workspace, args, stop).result()


class _Search:
    def __init__(self, workspace: Workspace, args: Arguments, stop: Stop) -> None:
        self._workspace = workspace
        self._stop = stop
        self._pattern = line_pattern(text(args, "pattern"))
        self._glob = path_pattern(text(args, "glob").removeprefix("./")) if "glob" in args else None
        self._path = text(args, "path", ".")
        self._bytes = 0
        self._notes: set[str] = set()

    def result(self) -> str:
        found: list[str] = []
        size = 0
        for path in self._paths():
            for line in self._lines(path):
                found.append(line)
                size += len(line)
                if size > MAX_OUTPUT:
                    return capped("".join(found))
        return capped("".join(found), " ".join(sorted(self._notes))) or "[no line matches]"

    def _paths(self) -> Iterator[str]:
        try:
            with self._workspace.entries(self._path):
                pass
        except WorkspaceError:
            with self._workspace.open(self._path):  # not a folder: then it must be a file
                pass
            yield self._path
            return
        walk = Walk(self._workspace, self._path, self._stop)
        for below, path in walk.files():
            self._stop.check()
            if self._glob is None or self._glob.fullmatch(os.fsencode(below)):
                if self._bytes >= MAX_BYTES:
                    self._notes.add(f"[not everything was searched: stopped after {MAX_BYTES} bytes]")
                    return
                yield path
        if walk.cut:
            self._notes.add(walk.note())

    def _lines(self, path: str) -> Iterator[str]:
        content = self._content(path)
        for number, line in matching_lines(self._pattern, content):
            self._stop.check()
            shown = line[:MAX_LINE].decode(errors="replace")
            yield f"{path}:{number}:{shown}{'…' if len(line) > MAX_LINE else ''}\n"

    def _content(self, path: str) -> bytes:
        """The text of a file; nothing if it is binary, too large or gone."""
        try:
            with self._workspace.open(path) as file:
                content = file.read(_BINARY_SAMPLE)
                if b"\0" not in content:
                    content += file.read(MAX_FILE + 1 - len(content))
        except WorkspaceError:
            return b""
        self._bytes += len(content)
        if len(content) > MAX_FILE:
            self._notes.add(f"[files over {MAX_FILE} bytes were left out]")
            return b""
        return b"" if b"\0" in content[:_BINARY_SAMPLE] else content


def matching_lines(pattern: Pattern, content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that match, with their numbers from 1."""
    at, number = 0, 1
    while at < len(content) and (match := pattern.search(content, at)):
        start = content.rfind(b"\n", 0, match.start()) + 1
        if start >= len(content):
            return  # an empty match behind the last line
        end = content.find(b"\n", match.end())
        end = len(content) if end < 0 else end
        number += content.count(b"\n", at, start)
        yield number, content[start:end].removesuffix(b"\r")
        at, number = end + 1, number + 1
