"""`list_dir {path?}`: list a folder."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.tools.builtin.arguments import Arguments, string
from cmdc_gateway.tools.builtin.definition import PATH, Definition
from cmdc_gateway.tools.builtin.file_tool import CancelToken, file_tool
from cmdc_gateway.tools.builtin.output import truncate
from cmdc_gateway.tools.workspace import Kind, Workspace

MAX_ENTRIES: Final = 2000

_SUFFIXES: Final[dict[Kind, str]] = {"file": "", "folder": "/", "link": "@", "special": "!"}


def list_names(workspace: Workspace, args: Arguments, token: CancelToken) -> str:
    """List a folder."""
    names: list[str] = []
    note = ""
    with workspace.entries(string(args, "path", ".")) as entries:
        for entry in entries:
            token.check()
            if len(names) == MAX_ENTRIES:
                note = f"[truncated after {MAX_ENTRIES} names]"
                break
            names.append(entry.name + _SUFFIXES[entry.kind])
    return truncate("".join(f"{name}\n" for name in sorted(names)), note) or "[empty]"


LIST_DIR: Final = Definition(
    name="list_dir",
    description=(
        "List a folder, one name per line, sorted. A name with the suffix / is a folder, with @ a symbolic link, and "
        f"with ! neither a file nor a folder. At most {MAX_ENTRIES} names."
    ),
    properties={"path": PATH | {"description": "The folder; default: the working folder."}},
    idempotent=True,
    factory=file_tool(list_names),
)
