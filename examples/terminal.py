"""What the demo prints: who speaks, when, and in color where the terminal has colors."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, Literal

Speaker = Literal["you", "agent", "thinking", "tool", "approval", "question", "gateway"]

_MARKS: Final[dict[Speaker, str]] = {
    "you": "›",
    "agent": "●",
    "thinking": "○",
    "tool": "⚙",
    "approval": "?",
    "question": "?",
    "gateway": "■",
}
_STYLES: Final[dict[Speaker, str]] = {
    "you": "1;36",
    "agent": "32",
    "thinking": "2",
    "tool": "35",
    "approval": "33",
    "question": "33",
    "gateway": "34",
}
_INDENT: Final = " " * 21


def has_colors() -> bool:
    """Whether stdout is a terminal with colors; https://no-color.org turns them off."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Transcript:
    """Prints a conversation line by line: seconds since its start, the speaker, and the text as it streams in."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._colors = has_colors()
        self._open: Speaker | None = None

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self._close()
        print(f"\n{self._style(text, '1')}")

    def note(self, text: str) -> None:
        """Print an aside without a speaker."""
        self._close()
        print(self._style(text, "2"))

    def say(self, speaker: Speaker, text: str) -> None:
        """Print one whole statement; its further lines are indented."""
        self._close()
        first, *rest = text.splitlines() or [""]
        print(self._prefix(speaker) + self._style(first, "2" if speaker == "thinking" else ""))
        for line in rest:
            print(_INDENT + line)

    def stream(self, speaker: Speaker, delta: str) -> None:
        """Print a chunk of a statement; the next statement of anyone else ends it."""
        if self._open != speaker:
            self._close()
            print(self._prefix(speaker), end="")
            self._open = speaker
        print(self._style(delta, "2" if speaker == "thinking" else ""), end="", flush=True)

    def success(self, text: str) -> None:
        """Print that everything worked."""
        self._close()
        print(f"\n{self._style('✓', '1;32')} {text}")

    def _close(self) -> None:
        if self._open is not None:
            print()
            self._open = None

    def _prefix(self, speaker: Speaker) -> str:
        elapsed = self._style(f"{time.monotonic() - self._started:6.2f} s", "2")
        return f"{elapsed}  {self._style(f'{_MARKS[speaker]} {speaker:<8}', _STYLES[speaker])} "

    def _style(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colors and code and text else text
