"""Access to the files in a workspace, and to no file outside it.

A path is resolved component by component, with file descriptors that do not follow symbolic links; links are read and
resolved here. The operating system never resolves more than one component. Therefore nothing is checked before it is used,
and replacing a folder by a link in between (TOCTOU) has no effect.
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
    """A path cannot be used; the message says why."""


class OutsideWorkspace(WorkspaceError):
    """The path leads outside the workspace."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a folder."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Location:
    """A name in an open folder; `.` is the folder itself. `parts` is its path from the root, without links."""

    folder: int
    name: str
    parts: tuple[str, ...]


class Workspace:
    """A folder that paths cannot leave. Paths are relative to `cwd`, and `cwd` to `root`. Methods raise `WorkspaceError`."""

    def __init__(self, root: Path, cwd: str = ".") -> None:
        self.root = root.resolve()
        self.cwd = cwd

    @property
    def folder(self) -> Path:
        """The working folder for programs."""
        return self.root / self.cwd

    def enter(self, path: str) -> Workspace:
        """The workspace with the same root and this working folder."""
        with self._open_folder(path) as (_, parts):
            return Workspace(self.root, "/".join(parts) or ".")

    @contextlib.contextmanager
    def open(self, path: str) -> Generator[BinaryIO]:
        """Open a regular file for reading."""
        with _errors_of(path), self._locate(path) as location, _open_regular(location, path) as file:
            yield file

    @contextlib.contextmanager
    def entries(self, path: str) -> Generator[Iterator[Entry]]:
        """The entries of a folder, in no particular order."""
        with _errors_of(path), self._open_folder(path) as (folder, _), os.scandir(folder) as entries:
            yield (Entry(entry.name, _kind(entry)) for entry in entries)

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically, and create missing folders."""
        with _errors_of(path), self._locate(path, create_folders=True) as location:
            mode = _mode_of(location, path)
            temporary = f".{secrets.token_hex(8)}.tmp"
            try:
                with os.fdopen(os.open(temporary, _NEW_FILE, 0o666, dir_fd=location.folder), "wb") as file:
                    file.write(content)
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                os.rename(temporary, location.name, src_dir_fd=location.folder, dst_dir_fd=location.folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=location.folder)
                raise

    @contextlib.contextmanager
    def _open_folder(self, path: str) -> Generator[tuple[int, tuple[str, ...]]]:
        with _errors_of(path), self._locate(path) as location:
            folder = os.open(location.name, _FOLDER, dir_fd=location.folder)
            try:
                yield folder, location.parts
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _locate(self, path: str, *, create_folders: bool = False) -> Generator[_Location]:
        """Open the folder that contains the last component of a path.

        That component is not a link, although it may be replaced by one at any time.
        """
        resolver = _Resolver(self.root, create_folders=create_folders)
        try:
            resolver.follow(_checked(self.cwd))
            resolver.follow(_checked(path))
            yield resolver.location()
        finally:
            resolver.close()


class _Resolver:
    """Resolves a path from the root, one component at a time. It holds one open folder."""

    def __init__(self, root: Path, *, create_folders: bool) -> None:
        self._root = root
        self._create_folders = create_folders
        self._parts: list[str] = []
        self._folder = os.open(root, _ROOT)
        self._last: str | None = None
        self._links = 0

    def location(self) -> _Location:
        if self._last is None:
            return _Location(self._folder, ".", tuple(self._parts))
        return _Location(self._folder, self._last, (*self._parts, self._last))

    def close(self) -> None:
        os.close(self._folder)

    def follow(self, path: str) -> None:
        """Resolve a path from here. The last component is opened only when another one follows."""
        pending = path.split("/")[::-1]
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if self._last is not None:
                self._enter(self._last)
                self._last = None
            if name == "..":
                self._leave()
            elif (target := self._link(name)) is not None:
                pending += target.split("/")[::-1]
            else:
                self._last = name

    def _enter(self, name: str) -> None:
        if self._create_folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self._folder)
        self._move_to(os.open(name, _FOLDER, dir_fd=self._folder))
        self._parts.append(name)

    def _leave(self) -> None:
        if not self._parts:
            raise OutsideWorkspace("the path leaves the workspace")
        self._parts.pop()
        # Start again at the root: the folder may have been moved, so its own `..` may be elsewhere.
        self._move_to(os.open(self._root, _ROOT))
        for name in self._parts:
            self._move_to(os.open(name, _FOLDER, dir_fd=self._folder))

    def _move_to(self, folder: int) -> None:
        os.close(self._folder)
        self._folder = folder

    def _link(self, name: str) -> str | None:
        """The target of a link; None if the name is not a link."""
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
            raise WorkspaceError(f"the path has more than {MAX_LINKS} symbolic links")
        if target.startswith("/"):
            raise OutsideWorkspace("the path contains a symbolic link that leaves the workspace")
        return target


def _checked(path: str) -> str:
    if path.startswith("/"):
        raise OutsideWorkspace(f"{path[:100]!r} is absolute; a path must be relative to the working folder")
    if "\0" in path:
        raise OutsideWorkspace("a path cannot contain the character U+0000")
    if len(os.fsencode(path)) > MAX_PATH:
        raise OutsideWorkspace(f"the path is longer than {MAX_PATH} bytes")
    return path


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "special"


def _mode_of(location: _Location, path: str) -> int | None:
    """The permissions of the existing file; None if there is none."""
    try:
        status = os.stat(location.name, dir_fd=location.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _require_regular(status.st_mode, path)
    return stat.S_IMODE(status.st_mode)


def _open_regular(location: _Location, path: str) -> BinaryIO:
    descriptor = os.open(location.name, _FILE, dir_fd=location.folder)
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
def _errors_of(path: str) -> Generator[None]:
    """Turn an OSError into a WorkspaceError that names only the path as it was given."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OutsideWorkspace(f"{path!r} was replaced by a symbolic link while it was opened") from None
        raise WorkspaceError(f"{path!r}: {os.strerror(error.errno or 0)}") from None
    except UnicodeEncodeError:
        raise WorkspaceError("the path contains characters that are invalid in a file name") from None
