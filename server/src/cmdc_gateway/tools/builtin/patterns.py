"""Regular expressions and file patterns from a model, all by RE2: time linear in the text, whatever they are."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

import re2

from cmdc_gateway.tools.builtin.base import ToolFailed

MAX_PATTERN: Final = 1000

_re2: Any = re2  # it has no types


class Found(Protocol):
    """A match, as in the standard library."""

    def start(self) -> int: ...
    def end(self) -> int: ...


class Pattern(Protocol):
    """A compiled pattern over bytes."""

    def search(self, text: bytes, pos: int | None = None) -> Found | None: ...
    def fullmatch(self, text: bytes) -> Found | None: ...


def line_pattern(pattern: str) -> Pattern:
    """A pattern that is looked for in lines: `^` and `$` mean those of a line, and no match spans two."""
    return _compiled(f"(?m){pattern}", pattern, never_nl=True)


def path_pattern(pattern: str) -> Pattern:
    """A pattern for whole paths: `*` and `?` stay within a name, `**` does not, `[…]` is one character of a set."""
    return _compiled(_translated(pattern), pattern, dot_nl=True)


def _compiled(expression: str, given: str, **options: bool) -> Pattern:
    if len(given) > MAX_PATTERN:
        raise ToolFailed(f"the pattern is longer than {MAX_PATTERN} characters")
    settings = _re2.Options()
    settings.log_errors = False
    for name, value in options.items():
        setattr(settings, name, value)
    try:
        return cast("Pattern", _re2.compile(expression.encode(errors="replace"), settings))
    except _re2.error as error:
        reason: object = error.args[0]
        sentence = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise ToolFailed(f"the pattern {given!r} cannot be used: {sentence}") from None


def _translated(pattern: str) -> str:
    """The regular expression of a file pattern."""
    written: list[str] = []
    at = 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/") and (at == 0 or pattern[at - 1] == "/"):
            written.append("(?:.*/)?")
            at += 3
        elif rest.startswith("**"):
            written.append(".*")
            at += 2
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            written.append(_one_of(rest[1:end]))
            at += end + 1
        else:
            written.append({"*": "[^/]*", "?": "[^/]"}.get(rest[0]) or _literal(rest[0]))
            at += 1
    return "".join(written)


def _one_of(members: str) -> str:
    negated = members[0] in "!^"
    escaped = "".join(member if member == "-" else _literal(member) for member in members[negated:])
    return f"[{'^/' if negated else ''}{escaped}]"


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\x{ord(character):02x}"
