"""`glob {pattern, path?}`: find files by path."""

from __future__ import annotations

import os
from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, string
from cmdc_gateway.tools.builtin.definition import PATH, Definition
from cmdc_gateway.tools.builtin.file_tool import CancelToken, file_tool
from cmdc_gateway.tools.builtin.file_tree import FileTree
from cmdc_gateway.tools.builtin.output import truncate
from cmdc_gateway.tools.builtin.patterns import path_pattern
from cmdc_gateway.tools.workspace import Workspace

MAX_PATHS: Final = 1000


def find_files(workspace: Workspace, args: Arguments, token: CancelToken) -> str:
    """Find files by path."""
    pattern = path_pattern(string(args, "pattern").removeprefix("./"))
    tree = FileTree(workspace, string(args, "path", "."), token)
    paths: list[str] = []
    for file in tree.files():
        token.check()
        if pattern.fullmatch(os.fsencode(file.relative)):
            if len(paths) == MAX_PATHS:
                return truncate("".join(paths), f"[truncated after {MAX_PATHS} paths]")
            paths.append(f"{file.path}\n")
    return truncate("".join(paths), tree.note()) or "[no file matches]"


GLOB: Final = Definition(
    name="glob",
    description=(
        "Find files whose path below `path` matches a pattern: * and ? match within a name, ** any number of folders, "
        "[abc] one character. Returns one path per line, relative to the working folder; "
        f"at most {MAX_PATHS} paths. Example: **/*.py"
    ),
    properties={
        "pattern": {"type": "string", "minLength": 1, "description": "For example *.md or src/**/*.py"},
        "path": PATH | {"description": "The folder to search; default: the working folder."},
    },
    required=("pattern",),
    idempotent=True,
    factory=file_tool(find_files),
)
