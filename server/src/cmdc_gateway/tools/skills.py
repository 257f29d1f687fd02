"""Skills: folders with a `SKILL.md`. The system prompt lists them, and the agent reads a file when it needs it."""

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

_HEADING: Final = "You have these skills. If one fits the task, first read its file with read_file, then follow it:"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill in the system prompt. `path` is relative to the root of the workspace."""

    name: str
    description: str
    path: str


def skills_prompt(workspace: Workspace, folders: Sequence[str]) -> str:
    """The list of skills for the system prompt; empty without skills. Reads files, so call it in a thread.

    The folders are relative to the root of the workspace, the paths in the text to its working folder.

    Raises:
        WorkspaceError: a folder is missing or outside the workspace.
    """
    root = Workspace(workspace.root)
    skills = [skill for folder in folders for skill in _skills(root.enter(folder))]
    if not skills:
        return ""
    lines = [_line(skill, workspace.cwd) for skill in skills[:MAX_SKILLS]]
    if len(skills) > MAX_SKILLS:
        lines.append(f"- and {len(skills) - MAX_SKILLS} more, which are not listed")
    return "\n".join([_HEADING, *lines])


def _skills(folder: Workspace) -> Iterator[Skill]:
    with folder.entries(".") as entries:
        names = sorted(entry.name for entry in entries if entry.kind in ("folder", "link"))
    for name in names:
        try:
            with folder.open(f"{name}/{FILE_NAME}") as file:
                fields = front_matter(file.read(MAX_FRONT_MATTER).decode(errors="replace"))
        except WorkspaceError:
            continue  # not a skill
        path = posixpath.join(folder.cwd, name, FILE_NAME)
        yield Skill(fields.get("name") or name, fields.get("description", ""), path)


def front_matter(text: str) -> dict[str, str]:
    """The `key: value` lines between the first two `---` lines. Other YAML is ignored."""
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
