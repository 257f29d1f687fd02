"""What went over the wire in one check, kept for its report, with secrets blacked out and bounded in length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

_LONGEST = 2000
_MOST = 60


class Redactor:
    """Blacks out secrets, wherever they stand."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: a secret may hold another.
        self._secrets = sorted({each for each in secrets if len(each) >= 4}, key=len, reverse=True)

    def add(self, secret: str) -> None:
        """From now on this is a secret too."""
        if len(secret) >= 4 and secret not in self._secrets:
            self._secrets = sorted([*self._secrets, secret], key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def found_in(self, text: str) -> str | None:
        """A secret that the text holds."""
        return next((secret for secret in self._secrets if secret in text), None)


REPLAY: Final = "replay "


class Evidence:
    """The last exchanges of a check, oldest first."""

    def __init__(self, redactor: Redactor) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST)
        self._kept: list[str] = []
        self._redactor = redactor

    def add_secret(self, secret: str) -> None:
        """From now on this is a secret too."""
        self._redactor.add(secret)

    def note(self, line: str) -> None:
        """Keep a line; `→` begins what the suite sent, `←` what came."""
        line = self._redactor(line)
        left_out = len(line) - _LONGEST
        self._lines.append(line if left_out <= 0 else f"{line[:_LONGEST]}… [{left_out} more characters]")

    def keep(self, line: str) -> None:
        """Keep a line whole, whatever comes after it."""
        self._kept.append(self._redactor(line))

    @property
    def lines(self) -> tuple[str, ...]:
        return (*self._kept, *self._lines)
