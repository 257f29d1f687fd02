"""The result of a built-in tool: Unicode text of a bounded length."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.protocol.encoding import whole_text

MAX_OUTPUT: Final = 64 * 1024
"""The maximum size of a result in bytes of UTF-8, without the note that it was truncated."""


def clean_text(content: bytes | str) -> str:
    """Text that every client can display: U+FFFD replaces invalid UTF-8 and U+0000."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else whole_text(content)
    return text.replace("\0", "\ufffd")


def truncate(content: bytes | str, note: str = "") -> str:
    """The text, truncated to `MAX_OUTPUT` with a note that says so. `note` is appended on a line of its own."""
    raw = clean_text(content).encode()
    if len(raw) > MAX_OUTPUT:
        kept = raw[:MAX_OUTPUT].decode(errors="ignore")
        note = f"[truncated after {MAX_OUTPUT} bytes] {note}".rstrip()
    else:
        kept = raw.decode()
    if not note:
        return kept
    line_end = "" if not kept or kept.endswith("\n") else "\n"
    return f"{kept}{line_end}{note}"
