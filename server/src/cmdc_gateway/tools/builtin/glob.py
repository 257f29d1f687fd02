"""`glob {pattern, path?}`: files by the pattern of their paths."""

from __future__ import annotations

import os
from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, text
from cmdc_gateway.tools.builtin.base import PATH, Definition, Stop
from cmdc_gateway.tools.builtin.output import capped
from cmdc_gateway.tools.builtin.patterns import path_pattern
from cmdc_gateway.tools.builtin.walk import Walk
from cmdc_gateway.tools.workspace import Workspace

MAX_FOUND: Final = 1000

GLOB: Final = Definition(
    name="glob",
    description=(
        "Find files whose path, from `path` on, matches a pattern: * and ? match within a name, ** any number of "
        "folders, [abc] one character. Gives one path a line, relative to the working folder; "
        f"at most {MAX_FOUND} paths. Example: **/*.py"
    ),
    properties={
        "pattern": {"type": "string", "minLength": 1, "description": "For example *.md or src/**/*.py"},
        "path": PATH | {"description": "The folder to look in; the working folder if left out."},
    },
    required=("pattern",),
    idempotent=True,
)


def find_files(workspace: Workspace, args: Arguments, stop: Stop) -> str:
    """Find files by their paths."""
    pattern = path_pattern(text(args, "pattern").removeprefix("./"))
    walk = Walk(workspace, text(args, "path", "."), stop)
    found: list[str] = []
    for below, path in walk.files():
        stop.check()
        if pattern.fullmatch(os.fsencode(below)):
            if len(found) == MAX_FOUND:
                return capped("".join(found), f"[cut after {MAX_FOUND} paths]")
            found.append(f"{path}\n")
    return capped("".join(found), walk.note()) or "[no file matches]"
