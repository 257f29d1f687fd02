import asyncio
import threading
import time
from pathlib import Path

import pytest
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin import NAMES, READ_ONLY
from cmdc_gateway.tools.builtin.definition import Definition
from cmdc_gateway.tools.builtin.file_tool import Cancelled, CancelToken, FileTool
from cmdc_gateway.tools.builtin.grep import matching_lines
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, truncate
from cmdc_gateway.tools.builtin.patterns import line_pattern, path_pattern
from cmdc_gateway.tools.plugin import ToolPlugin, canonical_name, find_tool
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue


def plugin(name: str) -> ToolPlugin:
    found = find_tool(name)
    assert found is not None
    return found


async def use(workspace: Workspace, name: str, **args: JsonValue) -> ToolResult:
    tool = plugin(name).create(workspace)
    assert tool is not None
    return await tool.run(ToolCall("c1", name, args))


@pytest.mark.parametrize("name", NAMES)
def test_every_tool_has_a_schema_that_rejects_unknown_arguments(name: str) -> None:
    spec = plugin(name).spec

    assert spec.name == name
    assert len(spec.description) > 30
    assert Parameters(spec.parameters).error({"unknown": 1}) is not None


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("read_file", "read_file"),
        ("CMDC.Tool.ReadFile", "read_file"),
        ("CMDC.Tool.Shell", "shell"),
        ("Elixir.CMDC.Tool.ListDir", "list_dir"),
        ("CMDC.Tool.AskUser", "ask_user"),
        ("ReadFile", None),
        ("cmdc.tool.readfile", None),
        ("", None),
    ],
)
def test_the_module_names_of_the_original_are_aliases(given: str, canonical: str | None) -> None:
    assert canonical_name(given) == canonical


def test_ask_user_is_only_a_spec(workspace: Workspace) -> None:
    assert plugin("ask_user").create(workspace) is None


def test_the_read_only_tools_exist() -> None:
    assert set(READ_ONLY) < set(NAMES)


@pytest.mark.parametrize("name", ["read_file", "list_dir", "glob", "grep", "write_file", "shell"])
async def test_arguments_are_validated_first(workspace: Workspace, name: str) -> None:
    result = await use(workspace, name, path=7, unknown=1)

    assert result.status == "error"
    assert "args" in result.result


async def test_read_file_returns_the_text_unchanged(root: Path, workspace: Workspace) -> None:
    (root / "crlf.txt").write_bytes("a\r\nb\u2028c\x0cd\nlast".encode())

    assert await use(workspace, "read_file", path="crlf.txt") == ToolResult("ok", "a\r\nb\u2028c\x0cd\nlast")


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [(1, 1, "one\n"), (2, 1, "two\n"), (2, None, "two\nthree\n"), (3, 9, "three\n"), (1, 2.0, "one\ntwo\n")],
)
async def test_read_file_counts_lines_from_one(
    workspace: Workspace, offset: int, limit: float | None, expected: str
) -> None:
    args: dict[str, JsonValue] = {"offset": offset}
    if limit is not None:
        args["limit"] = limit

    assert await use(workspace, "read_file", path="docs/a.txt", **args) == ToolResult("ok", expected)


async def test_read_file_reports_a_missing_line(workspace: Workspace) -> None:
    result = await use(workspace, "read_file", path="docs/a.txt", offset=5)

    assert result == ToolResult("error", "'docs/a.txt' has 3 lines; line 5 does not exist")


async def test_a_long_file_can_be_read_in_parts(root: Path, workspace: Workspace) -> None:
    text = "".join(f"line {n} {'x' * 90}\n" for n in range(3000))
    (root / "long.txt").write_text(text)

    read, offset = "", 1
    while True:
        result = (await use(workspace, "read_file", path="long.txt", offset=offset)).result
        assert len(result.encode()) < MAX_OUTPUT + 200
        part, truncated, note = result.rpartition("[truncated; continue with offset ")
        read += part if truncated else result
        if not truncated:
            break
        offset = int(note.rstrip("]"))

    assert read == text


async def test_a_long_line_is_truncated(root: Path, workspace: Workspace) -> None:
    (root / "line.txt").write_text("ä" * 100_000)

    result = await use(workspace, "read_file", path="line.txt")

    assert result.status == "ok"
    assert len(result.result.encode()) < MAX_OUTPUT + 200
    assert f"[truncated after {MAX_OUTPUT} bytes]" in result.result


async def test_binary_content_is_converted_to_text(root: Path, workspace: Workspace) -> None:
    (root / "binary").write_bytes(b"a\xff\x00b")

    assert await use(workspace, "read_file", path="binary") == ToolResult("ok", "a\ufffd\ufffdb")


@pytest.mark.parametrize("name", ["read_file", "list_dir", "glob", "grep", "write_file"])
@pytest.mark.parametrize("path", ["../outside/secret.txt", "/etc/passwd", "out/secret.txt", "out"])
async def test_no_tool_leaves_the_workspace(root: Path, workspace: Workspace, name: str, path: str) -> None:
    (root / "out").symlink_to("../outside")
    more: dict[str, dict[str, JsonValue]] = {
        "glob": {"pattern": "**"},
        "grep": {"pattern": "."},
        "write_file": {"content": "x"},
    }

    result = await use(workspace, name, path=path, **more.get(name, {}))

    assert result.status == "error"
    assert "secret" not in result.result.replace("secret.txt", "")
    assert (root.parent / "outside" / "secret.txt").read_text() == "secret"


async def test_list_dir_marks_entries_that_are_not_files(root: Path, workspace: Workspace) -> None:
    (root / "link").symlink_to("docs")

    assert await use(workspace, "list_dir") == ToolResult("ok", "docs/\nlink@\nnotes.md\n")
    assert await use(workspace, "list_dir", path="docs") == ToolResult("ok", "a.txt\n")


async def test_glob_finds_files_by_path(root: Path, workspace: Workspace) -> None:
    (root / "docs" / "deep").mkdir()
    (root / "docs" / "deep" / "b.md").write_text("")
    (root / "out").symlink_to("../outside")

    assert (await use(workspace, "glob", pattern="*.md")).result == "notes.md\n"
    assert (await use(workspace, "glob", pattern="**/*.md")).result == "notes.md\ndocs/deep/b.md\n"
    assert (await use(workspace, "glob", pattern="**/*.md", path="docs")).result == "docs/deep/b.md\n"
    assert (await use(workspace, "glob", pattern="**/secret*")).result == "[no file matches]"
    assert (await use(workspace, "glob", pattern="*", path="missing")).status == "error"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "d/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "d/e/a.py", True),
        ("d/**", "d/e/a.py", True),
        ("d/**/a.py", "d/a.py", True),
        ("?.py", "é.py", True),
        ("[ab].py", "b.py", True),
        ("[!ab].py", "b.py", False),
        ("[!a]", "/", False),
        ("[a-c]x", "bx", True),
        ("[]]", "]", True),
        ("a.py", "axpy", False),
        ("[", "[", True),
        ("a+(b)", "a+(b)", True),
    ],
)
def test_path_patterns(pattern: str, path: str, matches: bool) -> None:
    assert bool(path_pattern(pattern).fullmatch(path.encode())) is matches


async def test_grep_returns_path_number_and_line(root: Path, workspace: Workspace) -> None:
    (root / "binary").write_bytes(b"two\0two")
    (root / "docs" / "b.md").write_bytes(b"zwei\r\ntwo\r\n")
    (root / "out").symlink_to("../outside")

    assert (await use(workspace, "grep", pattern="tw[o]$")).result == "docs/a.txt:2:two\n"
    assert (await use(workspace, "grep", pattern="^two", glob="**/*.md")).result == "docs/b.md:2:two\n"
    assert (await use(workspace, "grep", pattern="one|three", path="docs/a.txt")).result == (
        "docs/a.txt:1:one\ndocs/a.txt:3:three\n"
    )
    assert (await use(workspace, "grep", pattern="secret")).result == "[no line matches]"
    assert (await use(workspace, "grep", pattern="x", path="missing")).status == "error"


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{5000}", "x" * 2000])
async def test_an_invalid_pattern_is_an_error(workspace: Workspace, pattern: str) -> None:
    result = await use(workspace, "grep", pattern=pattern)

    assert result.status == "error"
    assert "the pattern" in result.result


async def test_a_hostile_pattern_takes_linear_time(root: Path, workspace: Workspace) -> None:
    (root / "a.txt").write_text("a" * 100_000 + "\n")

    async with asyncio.timeout(20):
        assert (await use(workspace, "grep", pattern="(a|a)*(a|aa)+$b", path="a.txt")).result == "[no line matches]"


@given(
    lines=st.lists(st.text("ab\r ", max_size=4), max_size=8),
    pattern=st.sampled_from(["a", "^a", "b$", "", r"\s", "[^a]"]),
)
def test_no_match_spans_two_lines(lines: list[str], pattern: str) -> None:
    import re

    content = "".join(f"{line}\n" for line in lines).encode()

    found = [number for number, _ in matching_lines(line_pattern(pattern), content)]

    assert found == [number for number, line in enumerate(lines, 1) if re.search(pattern, line)]


async def test_many_matches_are_truncated(root: Path, workspace: Workspace) -> None:
    (root / "many.txt").write_text("match\n" * 50_000)

    result = await use(workspace, "grep", pattern="match")

    assert f"[truncated after {MAX_OUTPUT} bytes]" in result.result
    assert len(result.result.encode()) < MAX_OUTPUT + 200


async def test_a_search_of_too_many_files_is_marked_as_incomplete(
    root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdc_gateway.tools.builtin.file_tree.MAX_FILES", 10)
    for n in range(20):
        (root / "docs" / f"{n}.txt").write_text("word")

    for name, pattern in (("grep", "word"), ("glob", "**")):
        assert "[not all files were visited" in (await use(workspace, name, pattern=pattern)).result


async def test_a_search_of_too_many_bytes_is_marked_as_incomplete(
    root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdc_gateway.tools.builtin.grep.MAX_BYTES", 10_000)
    monkeypatch.setattr("cmdc_gateway.tools.builtin.grep.MAX_FILE", 10_000)
    (root / "docs" / "big.txt").write_text("word" * 5000)
    (root / "docs" / "next.txt").write_text("word")

    result = (await use(workspace, "grep", pattern="word")).result

    assert "[files over 10000 bytes were skipped]" in result
    assert "[not all files were searched: stopped after 10000 bytes]" in result


async def test_write_file_creates_folders_and_returns_the_size(root: Path, workspace: Workspace) -> None:
    result = await use(workspace, "write_file", path="new/æ.txt", content="æ\n")

    assert result == ToolResult("ok", "wrote 3 bytes to new/æ.txt")
    assert (root / "new" / "æ.txt").read_text() == "æ\n"


async def test_a_file_function_stops_when_the_call_is_cancelled(workspace: Workspace) -> None:
    started, stopped = threading.Event(), threading.Event()

    def endless(workspace: Workspace, args: dict[str, JsonValue], token: CancelToken) -> str:
        started.set()
        try:
            while True:
                token.check()
                time.sleep(0.001)
        except Cancelled:
            stopped.set()
            raise

    tool = FileTool(endless, Definition("endless", "", {}), workspace)
    task = asyncio.create_task(tool.run(ToolCall("c1", "endless", {})))
    assert await asyncio.to_thread(started.wait, 5)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(stopped.wait, 5)


@given(st.text() | st.binary(), st.sampled_from(["", "[note]"]))
def test_output_is_always_text(content: str | bytes, note: str) -> None:
    text = truncate(content, note)

    text.encode()
    assert "\0" not in text
    assert text.endswith(note)
