"""What a tool gives back to the model: Unicode text of a bounded length."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.protocol.encoding import whole_text

MAX_OUTPUT: Final = 64 * 1024
"""The bytes of UTF-8 that a result may have, without the sentence that says it was cut."""


def text_of(content: bytes | str) -> str:
    """Text that every reader can take: U+FFFD stands for what is not UTF-8, and for U+0000."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else whole_text(content)
    return text.replace("\0", "\ufffd")


def capped(content: bytes | str, note: str = "") -> str:
    """The text, cut at `MAX_OUTPUT` with a sentence that says so; `note` goes on a line of its own at the end."""
    raw = text_of(content).encode()
    if len(raw) > MAX_OUTPUT:
        kept = raw[:MAX_OUTPUT].decode(errors="ignore")
        note = f"[cut after {MAX_OUTPUT} bytes] {note}".rstrip()
    else:
        kept = raw.decode()
    if not note:
        return kept
    line_end = "" if not kept or kept.endswith("\n") else "\n"
    return f"{kept}{line_end}{note}"
