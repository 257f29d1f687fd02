"""All files below a folder, up to a limit. Symbolic links are not followed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cmdc_gateway.tools.builtin.file_tool import CancelToken
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

MAX_FILES: Final = 20_000
MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class File:
    """A file in a tree. `relative` is its path from the root of the tree, `path` from the working folder."""

    relative: str
    path: str


class FileTree:
    """One pass over a tree, in the order of names. `incomplete` is then whether a limit was reached."""

    def __init__(self, workspace: Workspace, root: str, token: CancelToken) -> None:
        self._workspace = workspace
        self._root = posixpath.normpath(root) if not root.startswith("/") else root
        self._token = token
        self._entries = 0
        self.incomplete = False

    def files(self) -> Iterator[File]:
        """The files. Raises `WorkspaceError` if the root cannot be read."""
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                names, subfolders = self._read(folder)
            except WorkspaceError:
                if not folder:
                    raise
                continue  # deleted, or without permission to read
            yield from (File(folder + name, self._path(folder + name)) for name in names)
            if folder.count("/") < MAX_DEPTH:
                pending += [f"{folder}{name}/" for name in sorted(subfolders, reverse=True)]
            elif subfolders:
                self.incomplete = True

    def note(self) -> str:
        """The note for an incomplete result; empty if the tree is complete."""
        limits = f"more than {MAX_FILES} names or {MAX_DEPTH} levels"
        return f"[not all files were visited: {limits}]" if self.incomplete else ""

    def _read(self, folder: str) -> tuple[list[str], list[str]]:
        names: list[str] = []
        subfolders: list[str] = []
        with self._workspace.entries(self._path(folder)) as entries:
            for entry in entries:
                self._token.check()
                if self._entries == MAX_FILES:
                    self.incomplete = True
                    break
                self._entries += 1
                if entry.kind == "folder":
                    subfolders.append(entry.name)
                elif entry.kind == "file":
                    names.append(entry.name)
        return sorted(names), subfolders

    def _path(self, relative: str) -> str:
        return posixpath.join(self._root, relative) if self._root != "." else relative or "."
