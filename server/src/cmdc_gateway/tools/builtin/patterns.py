"""Regular expressions and file patterns from a model. RE2 guarantees linear time for every pattern."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

import re2

from cmdc_gateway.tools.builtin.file_tool import ToolFailed

MAX_PATTERN: Final = 1000

_re2: Any = re2  # has no type hints


class Match(Protocol):
    """A match, as in the standard library."""

    def start(self) -> int: ...
    def end(self) -> int: ...


class Pattern(Protocol):
    """A compiled pattern over bytes."""

    def search(self, text: bytes, pos: int | None = None) -> Match | None: ...
    def fullmatch(self, text: bytes) -> Match | None: ...


def line_pattern(pattern: str) -> Pattern:
    """A pattern for lines: `^` and `$` match at the ends of a line, and no match spans two lines."""
    return _compile(f"(?m){pattern}", pattern, never_nl=True)


def path_pattern(pattern: str) -> Pattern:
    """A pattern for paths: `*` and `?` match within a name, `**` across folders, and `[…]` one character of a set."""
    return _compile(_translate(pattern), pattern, dot_nl=True)


def _compile(expression: str, source: str, **options: bool) -> Pattern:
    if len(source) > MAX_PATTERN:
        raise ToolFailed(f"the pattern has {len(source)} characters; the maximum is {MAX_PATTERN}")
    re2_options = _re2.Options()
    re2_options.log_errors = False
    for name, value in options.items():
        setattr(re2_options, name, value)
    try:
        return cast("Pattern", _re2.compile(expression.encode(errors="replace"), re2_options))
    except _re2.error as error:
        reason: object = error.args[0]
        message = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise ToolFailed(f"the pattern {source!r} is invalid: {message}") from None


def _translate(pattern: str) -> str:
    """The regular expression for a file pattern."""
    expression: list[str] = []
    position = 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/") and (position == 0 or pattern[position - 1] == "/"):
            expression.append("(?:.*/)?")
            position += 3
        elif rest.startswith("**"):
            expression.append(".*")
            position += 2
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            expression.append(_character_set(rest[1:end]))
            position += end + 1
        else:
            expression.append({"*": "[^/]*", "?": "[^/]"}.get(rest[0]) or _literal(rest[0]))
            position += 1
    return "".join(expression)


def _character_set(members: str) -> str:
    negated = members[0] in "!^"
    escaped = "".join(member if member == "-" else _literal(member) for member in members[negated:])
    return f"[{'^/' if negated else ''}{escaped}]"


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\x{ord(character):02x}"
