"""The exchanges of one check, kept for the report: bounded in length, with secrets redacted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

_MAX_LINE = 2000
_MAX_LINES = 60
_SHORTEST_SECRET = 4  # anything shorter occurs in ordinary text


class Redactor:
    """Replaces secrets in text by "[secret]"."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Redact this string too from now on."""
        if len(secret) >= _SHORTEST_SECRET and secret not in self._secrets:
            # Longest first: one secret may contain another.
            self._secrets = sorted([*self._secrets, secret], key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def found_in(self, text: str) -> str | None:
        """Return a secret that the text contains, or None."""
        return next((secret for secret in self._secrets if secret in text), None)


REPLAY: Final = "replay "
"""The prefix of an evidence line that holds a replay file."""


class Evidence:
    """The latest exchanges of a check, oldest first."""

    def __init__(self, redactor: Redactor) -> None:
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._pinned: list[str] = []
        self._redactor = redactor

    def add_secret(self, secret: str) -> None:
        """Redact this string too from now on."""
        self._redactor.add(secret)

    def note(self, line: str) -> None:
        """Append a line; it starts with `→` for what the suite sent and `←` for what it received."""
        line = self._redactor(line)
        omitted = len(line) - _MAX_LINE
        self._lines.append(line if omitted <= 0 else f"{line[:_MAX_LINE]}… [{omitted} more characters]")

    def pin(self, line: str) -> None:
        """Keep a line in full, ahead of all others."""
        self._pinned.append(self._redactor(line))

    @property
    def lines(self) -> tuple[str, ...]:
        return (*self._pinned, *self._lines)
