import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from time import monotonic

import pytest
from cmdc_gateway.tools.workspace import OutsideWorkspace, Workspace, WorkspaceError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def read(workspace: Workspace, path: str) -> str:
    with workspace.open(path) as file:
        return file.read().decode()


def names(workspace: Workspace, path: str) -> list[str]:
    with workspace.entries(path) as entries:
        return sorted(entry.name for entry in entries)


def overwrite(workspace: Workspace, path: str) -> None:
    workspace.write(path, b"overwritten")


@pytest.mark.parametrize("path", ["notes.md", "./notes.md", "docs/../notes.md", "docs//..//./notes.md"])
def test_a_file_in_the_workspace_can_be_read(workspace: Workspace, path: str) -> None:
    assert read(workspace, path) == "hello\n"


def test_paths_are_relative_to_the_working_folder(workspace: Workspace) -> None:
    docs = workspace.enter("docs")

    assert docs.cwd == "docs"
    assert read(docs, "a.txt").startswith("one")
    assert read(docs, "../notes.md") == "hello\n"
    assert docs.enter("..").cwd == "."


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside/secret.txt",
        "docs/../../outside/secret.txt",
        "docs/../docs/../../outside/secret.txt",
        "../root/notes.md",
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "notes.md\0",
        "a" * 5000,
    ],
)
def test_a_path_that_leaves_the_workspace_is_rejected(workspace: Workspace, path: str) -> None:
    for use in (read, names, Workspace.enter, overwrite):
        with pytest.raises(OutsideWorkspace):
            use(workspace, path)


def test_a_working_folder_does_not_change_the_root(workspace: Workspace) -> None:
    with pytest.raises(OutsideWorkspace):
        read(workspace.enter("docs"), "../../outside/secret.txt")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("../outside", "link/secret.txt"),
        ("../outside/secret.txt", "link"),
        ("docs/../../outside", "link/secret.txt"),
        ("/etc/passwd", "link"),
        ("/etc", "link/passwd"),
        ("/", "link/etc/passwd"),
        ("..", "link/outside/secret.txt"),
    ],
)
def test_a_link_that_leaves_the_workspace_is_rejected(root: Path, workspace: Workspace, target: str, path: str) -> None:
    (root / "link").symlink_to(target)

    with pytest.raises(OutsideWorkspace):
        read(workspace, path)
    with pytest.raises(OutsideWorkspace):
        workspace.write(path, b"overwritten")
    assert (root.parent / "outside" / "secret.txt").read_text() == "secret"


def test_a_chain_of_links_that_leaves_the_workspace_is_rejected(root: Path, workspace: Workspace) -> None:
    (root / "one").symlink_to("docs/two")
    (root / "docs" / "two").symlink_to("../three")
    (root / "three").symlink_to("../outside")

    with pytest.raises(OutsideWorkspace):
        read(workspace, "one/secret.txt")


def test_a_link_within_the_workspace_is_followed(root: Path, workspace: Workspace) -> None:
    (root / "link").symlink_to("docs")
    (root / "docs" / "up").symlink_to("../notes.md")

    assert read(workspace, "link/a.txt").startswith("one")
    assert read(workspace, "link/up") == "hello\n"
    assert workspace.enter("link").cwd == "docs"
    assert read(workspace, "link/../notes.md") == "hello\n"


def test_circular_links_are_rejected(root: Path, workspace: Workspace) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "self").symlink_to("self/x")

    for path in ("a", "b/x", "self"):
        with pytest.raises(WorkspaceError, match="more than 40 symbolic links"):
            read(workspace, path)


def test_writing_through_a_link_keeps_the_link(root: Path, workspace: Workspace) -> None:
    (root / "link").symlink_to("docs/a.txt")

    workspace.write("link", b"new")

    assert (root / "link").is_symlink()
    assert (root / "docs" / "a.txt").read_text() == "new"


def test_a_path_that_is_not_a_regular_file_is_rejected(root: Path, workspace: Workspace) -> None:
    os.mkfifo(root / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root)  # the path of a socket must be short
    listening.bind("socket")
    os.chdir(here)

    for path in ("pipe", "socket", "docs", "."):
        with pytest.raises(WorkspaceError):
            read(workspace, path)
        with pytest.raises(WorkspaceError):
            workspace.write(path, b"x")
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    listening.close()


def test_a_write_replaces_the_file_and_leaves_no_temporary_file(root: Path, workspace: Workspace) -> None:
    (root / "notes.md").chmod(0o640)

    workspace.write("notes.md", b"bye")
    workspace.write("new/folders/file.txt", b"made")

    assert read(workspace, "notes.md") == "bye"
    assert stat.S_IMODE((root / "notes.md").stat().st_mode) == 0o640
    assert read(workspace, "new/folders/file.txt") == "made"
    assert names(workspace, ".") == ["docs", "new", "notes.md"]
    assert names(workspace, "new/folders") == ["file.txt"]


def test_a_missing_file_or_folder_is_an_error(workspace: Workspace) -> None:
    for use in (read, names, Workspace.enter):
        with pytest.raises(WorkspaceError, match="'missing': No such file or directory"):
            use(workspace, "missing")
    with pytest.raises(WorkspaceError, match="Not a directory"):
        workspace.enter("notes.md")


@pytest.mark.parametrize(("target", "path"), [("../outside", "link/secret.txt"), ("../outside/secret.txt", "link")])
def test_a_name_that_becomes_a_link_during_resolution_is_rejected(
    root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, target: str, path: str
) -> None:
    (root / "link").symlink_to(target)

    def too_early(*_: object, **__: object) -> str:
        raise OSError(errno.EINVAL, "not a link yet")

    monkeypatch.setattr(os, "readlink", too_early)

    with pytest.raises(WorkspaceError):
        read(workspace, path)
    with pytest.raises(WorkspaceError):
        names(workspace, path.removesuffix("/secret.txt"))


def swapping(root: Path, stop: threading.Event) -> Callable[[], None]:
    """In a loop, alternate `door` between a folder and a link to the outside, and `flip` between links to both."""

    def swap() -> None:
        while not stop.is_set():
            for target in ("../outside", "door"):
                (root / "door").rename(root / "real")
                (root / "trap").rename(root / "door")
                (root / "door").rename(root / "trap")
                (root / "real").rename(root / "door")
                (root / "next").symlink_to(target)
                (root / "next").replace(root / "flip")

    return swap


def test_replacing_a_folder_by_a_link_concurrently_has_no_effect(root: Path, workspace: Workspace) -> None:
    (root / "door").mkdir()
    (root / "door" / "secret.txt").write_text("harmless")
    (root / "trap").symlink_to("../outside")
    (root / "flip").symlink_to("docs")
    (root / "docs" / "secret.txt").write_text("harmless")
    stop = threading.Event()
    swapper = threading.Thread(target=swapping(root, stop))
    swapper.start()
    seen: set[str] = set()
    try:
        deadline = monotonic() + 20
        for attempts, path in enumerate(cycle(("door", "flip", "flip/../door"))):
            if attempts >= 3000 and ({"harmless", "rejected"} <= seen or monotonic() > deadline):
                break
            try:
                seen.add(read(workspace, f"{path}/secret.txt"))
                seen.update(names(workspace, path))
            except WorkspaceError:
                seen.add("rejected")
    finally:
        stop.set()
        swapper.join()

    assert {"harmless", "rejected"} <= seen <= {"harmless", "rejected", "secret.txt", "a.txt"}


def test_a_write_does_not_follow_a_link_that_changes_concurrently(root: Path, workspace: Workspace) -> None:
    (root / "flip").symlink_to("docs")
    stop = threading.Event()

    def alternate() -> None:
        while not stop.is_set():
            for target in ("../outside", "docs"):
                (root / "next").symlink_to(target)
                (root / "next").replace(root / "flip")

    alternator = threading.Thread(target=alternate)
    alternator.start()
    outcomes: set[str] = set()
    try:
        attempts, deadline = 0, monotonic() + 20
        # The threads may run in lockstep for a while: continue until both outcomes have occurred.
        while attempts < 1000 or (len(outcomes) < 2 and monotonic() < deadline):
            attempts += 1
            try:
                workspace.write("flip/secret.txt", b"overwritten")
                outcomes.add("written")
            except WorkspaceError:
                outcomes.add("rejected")
    finally:
        stop.set()
        alternator.join()

    assert outcomes == {"written", "rejected"}
    assert (root.parent / "outside" / "secret.txt").read_text() == "secret"
    assert names(Workspace(root.parent), "outside") == ["secret.txt"]


COMPONENTS = st.sampled_from(
    ["..", ".", "", "docs", "a.txt", "out", "up", "in", "etc", "/", "~", "outside", "secret.txt"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(components=st.lists(COMPONENTS, max_size=12))
def test_no_path_leaves_the_workspace(root: Path, workspace: Workspace, components: list[str]) -> None:
    for name, target in (("out", "../outside"), ("up", ".."), ("in", "docs/../docs")):
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    path = "/".join(components)

    try:
        content = read(workspace, path)
    except WorkspaceError:
        return

    assert content != "secret"
    assert root.resolve() in (root / path).resolve().parents


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(max_size=40))
def test_reading_any_path_raises_nothing_but_workspace_errors(workspace: Workspace, path: str) -> None:
    with contextlib.suppress(WorkspaceError):
        read(workspace, path)


def test_no_descriptor_is_left_open(root: Path, workspace: Workspace) -> None:
    (root / "out").symlink_to("../outside")
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208

    for path in ("notes.md", "docs", "missing/x", "out/secret.txt", "..", "docs/../docs/a.txt"):
        for use in (read, names, Workspace.enter):
            try:
                use(workspace, path)
            except WorkspaceError:
                continue

    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
