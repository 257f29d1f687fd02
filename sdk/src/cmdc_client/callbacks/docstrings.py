"""Parses docstrings in Google style: the first paragraph, and the descriptions of the arguments under `Args:`."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"(?:Args|Arguments|Parameters):\s*")
# `city: …`, `city (str): …`, `*cities: …`
_ENTRY = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of a docstring that describe a tool."""

    summary: str = ""
    arguments: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def parse(cls, text: str | None) -> Docstring:
        """Parse a docstring. Everything that is written in another style is ignored."""
        lines = inspect.cleandoc(text or "").splitlines()
        return cls(_summary(lines), _arguments(lines))


def _summary(lines: list[str]) -> str:
    paragraph: list[str] = []
    for line in lines:
        if not line.strip() or _SECTION.fullmatch(line):
            break
        paragraph.append(line.strip())
    return " ".join(paragraph)


def _arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    in_section, indent, name = False, 0, ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line and not depth:  # the heading of a section, or a paragraph of text
            in_section, indent = _SECTION.fullmatch(line) is not None, 0
            continue
        if not in_section or not line.strip():
            continue
        indent = indent or depth
        if depth <= indent and (entry := _ENTRY.fullmatch(line.strip())):
            name = entry["name"]
            found[name] = [entry["text"]]
        elif name in found:
            found[name].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}
