"""Every file below a folder, within bounds. Links are not followed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

from cmdc_gateway.tools.builtin.base import Stop
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

MAX_FILES: Final = 20_000
MAX_DEPTH: Final = 64


class Walk:
    """One pass over a tree, in the order of names. `cut` says, once it is over, whether there was more."""

    def __init__(self, workspace: Workspace, path: str, stop: Stop) -> None:
        self._workspace = workspace
        self._path = posixpath.normpath(path) if not path.startswith("/") else path
        self._stop = stop
        self._seen = 0
        self.cut = False

    def files(self) -> Iterator[tuple[str, str]]:
        """Pairs of a path from the folder, and one from the working folder. Raises `WorkspaceError` for the folder."""
        waiting = [""]
        while waiting:
            below = waiting.pop()
            try:
                names, folders = self._read(below)
            except WorkspaceError:
                if not below:
                    raise
                continue  # gone, or not ours to read
            yield from ((below + name, self._from_here(below + name)) for name in names)
            if below.count("/") < MAX_DEPTH:
                waiting += [f"{below}{name}/" for name in sorted(folders, reverse=True)]
            elif folders:
                self.cut = True

    def note(self) -> str:
        return f"[not everything was looked at: more than {MAX_FILES} names or {MAX_DEPTH} levels]" if self.cut else ""

    def _read(self, below: str) -> tuple[list[str], list[str]]:
        names: list[str] = []
        folders: list[str] = []
        with self._workspace.entries(self._from_here(below)) as entries:
            for entry in entries:
                self._stop.check()
                if self._seen == MAX_FILES:
                    self.cut = True
                    break
                self._seen += 1
                if entry.kind == "folder":
                    folders.append(entry.name)
                elif entry.kind == "file":
                    names.append(entry.name)
        return sorted(names), folders

    def _from_here(self, below: str) -> str:
        return posixpath.join(self._path, below) if self._path != "." else below or "."
