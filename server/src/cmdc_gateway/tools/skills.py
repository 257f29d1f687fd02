"""What the agent is told of its skills: folders with a `SKILL.md` each, whose text it reads when it needs it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cmdc_gateway.protocol.encoding import whole_text
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

MAX_SKILLS: Final = 100
MAX_FRONT_MATTER: Final = 8 * 1024
MAX_DESCRIPTION: Final = 500
FILE_NAME: Final = "SKILL.md"

_HEAD: Final = "Skills you have. When one fits the task, read its file with read_file first and follow it:"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill as it stands in the system prompt. `path` is for read_file."""

    name: str
    description: str
    path: str


def skills_prompt(workspace: Workspace, folders: Sequence[str]) -> str:
    """The text for the end of the system prompt; empty if there are no skills. It reads files: call it in a thread.

    The folders are relative to the workspace's root, the paths in the text to its working folder.

    Raises:
        WorkspaceError: a folder is missing or outside the workspace.
    """
    root = Workspace(workspace.root)
    found = [skill for folder in folders for skill in _skills(root.enter(folder))]
    if not found:
        return ""
    lines = [_line(skill, workspace.cwd) for skill in found[:MAX_SKILLS]]
    if len(found) > MAX_SKILLS:
        lines.append(f"- and {len(found) - MAX_SKILLS} more, which are not listed")
    return "\n".join([_HEAD, *lines])


def _skills(folder: Workspace) -> Iterator[Skill]:
    with folder.entries(".") as entries:
        names = sorted(entry.name for entry in entries if entry.kind in ("folder", "link"))
    for name in names:
        try:
            with folder.open(f"{name}/{FILE_NAME}") as file:
                fields = front_matter(file.read(MAX_FRONT_MATTER).decode(errors="replace"))
        except WorkspaceError:
            continue  # not the folder of a skill
        path = posixpath.join(folder.cwd, name, FILE_NAME)
        yield Skill(fields.get("name") or name, fields.get("description", ""), path)


def front_matter(text: str) -> dict[str, str]:
    """The `key: value` lines between the first two lines `---`. Nothing else of YAML is understood."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    fields: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return fields
        key, colon, value = line.partition(":")
        if colon and key == key.strip():
            fields[key] = _unquoted(value.strip())
    return {}


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _line(skill: Skill, cwd: str) -> str:
    path = posixpath.relpath(skill.path, cwd)
    description = skill.description
    if len(description) > MAX_DESCRIPTION:
        description = f"{description[: MAX_DESCRIPTION - 1]}…"
    return whole_text(f"- {skill.name[:100]}: {description} ({path})".replace("\0", "\ufffd"))
