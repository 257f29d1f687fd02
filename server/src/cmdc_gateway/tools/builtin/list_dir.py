"""`list_dir {path?}`: what is in a folder."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, text
from cmdc_gateway.tools.builtin.base import PATH, Definition, Stop
from cmdc_gateway.tools.builtin.output import capped
from cmdc_gateway.tools.workspace import Kind, Workspace

MAX_ENTRIES: Final = 2000

LIST_DIR: Final = Definition(
    name="list_dir",
    description=(
        "List a folder, one name a line, sorted. A name that ends in / is a folder, one that ends in @ a link, "
        f"one that ends in ! is neither file nor folder. At most {MAX_ENTRIES} names."
    ),
    properties={"path": PATH | {"description": "The folder; the working folder if left out."}},
    idempotent=True,
)

_MARKS: Final[dict[Kind, str]] = {"file": "", "folder": "/", "link": "@", "special": "!"}


def list_names(workspace: Workspace, args: Arguments, stop: Stop) -> str:
    """List a folder."""
    names: list[str] = []
    note = ""
    with workspace.entries(text(args, "path", ".")) as entries:
        for entry in entries:
            stop.check()
            if len(names) == MAX_ENTRIES:
                note = f"[cut after {MAX_ENTRIES} names]"
                break
            names.append(entry.name + _MARKS[entry.kind])
    return capped("".join(f"{name}\n" for name in sorted(names)), note) or "[empty]"
