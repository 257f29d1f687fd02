"""Files of a session, none of them outside its workspace.

A path is walked folder by folder with descriptors that follow no link; links are read and walked by hand. So nothing is
checked first and used later, and whoever swaps a folder for a link meanwhile gains nothing. The operating system's own
path resolution is never given more than one component.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

MAX_PATH: Final = 4096
MAX_LINKS: Final = 40

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for its other end.
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Kind = Literal["file", "folder", "link", "special"]


class WorkspaceError(Exception):
    """A path cannot be used; the sentence says why."""


class OutsideWorkspace(WorkspaceError):
    """The path is not one inside the workspace."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds under one name."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Place:
    """A name in an open folder; `.` is the folder itself. `parts` is the way there from the root, free of links."""

    folder: int
    name: str
    parts: tuple[str, ...]


class Workspace:
    """A folder that paths cannot leave. Paths are relative to `cwd`, which is relative to `root`."""

    def __init__(self, root: Path, cwd: str = ".") -> None:
        self.root = root.resolve()
        self.cwd = cwd

    @property
    def folder(self) -> Path:
        """Where a program that works in this workspace is started."""
        return self.root / self.cwd

    def enter(self, path: str) -> Workspace:
        """The workspace of the same root that works in this folder. Raises `WorkspaceError`."""
        with self._open_folder(path) as (_, parts):
            return Workspace(self.root, "/".join(parts) or ".")

    @contextlib.contextmanager
    def open(self, path: str) -> Generator[BinaryIO]:
        """Read a regular file. Raises `WorkspaceError`."""
        with _sentences(path), self._place(path) as place, _regular_file(place, path) as file:
            yield file

    @contextlib.contextmanager
    def entries(self, path: str) -> Generator[Iterator[Entry]]:
        """What is in a folder, in the order the system gives it. Raises `WorkspaceError`."""
        with _sentences(path), self._open_folder(path) as (folder, _), os.scandir(folder) as found:
            yield (Entry(entry.name, _kind(entry)) for entry in found)

    def write(self, path: str, content: bytes) -> None:
        """Put a file there at once or not at all; folders on the way are made. Raises `WorkspaceError`."""
        with _sentences(path), self._place(path, make_folders=True) as place:
            mode = _mode_of(place, path)
            temporary = f".{secrets.token_hex(8)}.tmp"
            try:
                with os.fdopen(os.open(temporary, _NEW_FILE, 0o666, dir_fd=place.folder), "wb") as file:
                    file.write(content)
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                os.rename(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=place.folder)
                raise

    @contextlib.contextmanager
    def _open_folder(self, path: str) -> Generator[tuple[int, tuple[str, ...]]]:
        with _sentences(path), self._place(path) as place:
            folder = os.open(place.name, _FOLDER, dir_fd=place.folder)
            try:
                yield folder, place.parts
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _place(self, path: str, *, make_folders: bool = False) -> Generator[_Place]:
        """Find the folder that a path's last name is in. That name is no link, though it may become one at any time."""
        walk = _Walk(self.root, make_folders=make_folders)
        try:
            walk.go(_checked(self.cwd))
            walk.go(_checked(path))
            yield walk.place()
        finally:
            walk.close()


class _Walk:
    """A way from the root, one component at a time, with one open folder."""

    def __init__(self, root: Path, *, make_folders: bool) -> None:
        self._root = root
        self._make_folders = make_folders
        self._parts: list[str] = []
        self._folder = os.open(root, _ROOT)
        self._last: str | None = None
        self._links = 0

    def place(self) -> _Place:
        if self._last is None:
            return _Place(self._folder, ".", tuple(self._parts))
        return _Place(self._folder, self._last, (*self._parts, self._last))

    def close(self) -> None:
        os.close(self._folder)

    def go(self, path: str) -> None:
        """Walk on. The last component is only looked at; it is entered when more follows."""
        waiting = path.split("/")[::-1]
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            if self._last is not None:
                self._enter(self._last)
                self._last = None
            if name == "..":
                self._leave()
            elif (target := self._link(name)) is not None:
                waiting += target.split("/")[::-1]
            else:
                self._last = name

    def _enter(self, name: str) -> None:
        if self._make_folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self._folder)
        self._move_to(os.open(name, _FOLDER, dir_fd=self._folder))
        self._parts.append(name)

    def _leave(self) -> None:
        if not self._parts:
            raise OutsideWorkspace("the path leaves the workspace")
        self._parts.pop()
        # From the root again, by the names walked before: the folder's own `..` may be elsewhere by now.
        self._move_to(os.open(self._root, _ROOT))
        for name in self._parts:
            self._move_to(os.open(name, _FOLDER, dir_fd=self._folder))

    def _move_to(self, folder: int) -> None:
        os.close(self._folder)
        self._folder = folder

    def _link(self, name: str) -> str | None:
        """Where the link of this name points; None if it is no link."""
        try:
            target = os.readlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise
        self._links += 1
        if self._links > MAX_LINKS:
            raise WorkspaceError("the path goes through too many links")
        if target.startswith("/"):
            raise OutsideWorkspace("the path goes through a link that leaves the workspace")
        return target


def _checked(path: str) -> str:
    if path.startswith("/"):
        raise OutsideWorkspace("an absolute path is not allowed: paths start in the working folder")
    if "\0" in path:
        raise OutsideWorkspace("a path cannot hold the character U+0000")
    if len(os.fsencode(path)) > MAX_PATH:
        raise OutsideWorkspace(f"the path is longer than {MAX_PATH} bytes")
    return path


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "special"


def _mode_of(place: _Place, path: str) -> int | None:
    """The permissions of the file that is there now, if one is."""
    try:
        found = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _require_regular(found.st_mode, path)
    return stat.S_IMODE(found.st_mode)


def _regular_file(place: _Place, path: str) -> BinaryIO:
    descriptor = os.open(place.name, _FILE, dir_fd=place.folder)
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise WorkspaceError(f"{path!r} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise WorkspaceError(f"{path!r} is not a regular file")


@contextlib.contextmanager
def _sentences(path: str) -> Generator[None]:
    """Say what the operating system refused, without the names it saw on the way."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OutsideWorkspace(f"{path!r} became a link while it was opened") from None
        raise WorkspaceError(f"{path!r}: {os.strerror(error.errno or 0)}") from None
    except UnicodeEncodeError:
        raise WorkspaceError("the path holds characters that a file name cannot hold") from None
