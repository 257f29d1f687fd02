"""Scripts for the scripted model, embedded in prompts. "The scripted model" in API.md defines the format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

Reply = dict[str, Any]

_BLOCK: Final = re.compile(
    r"^ {0,3}(`{3,}|~{3,}) *script *\n(.*?)(?:\n {0,3}\1[`~]* *(?:\n|$)|\Z)", re.DOTALL | re.MULTILINE
)


def reply(
    *text: str,
    thinking: Sequence[str] = (),
    calls: Sequence[tuple[str, Mapping[str, Any]]] = (),
    usage: tuple[int, int] | None = None,
    delay_ms: int = 0,
    fail: tuple[int, int] | None = None,
    cut: bool = False,
) -> Reply:
    """One model reply. `usage` is (prompt tokens, completion tokens), `fail` is (status, number of failing attempts)."""
    made: Reply = {"text": [*text]}
    if thinking:
        made["thinking"] = [*thinking]
    if calls:
        made["toolCalls"] = [{"name": name, "args": dict(args)} for name, args in calls]
    if usage is not None:
        made["usage"] = {"promptTokens": usage[0], "completionTokens": usage[1]}
    if delay_ms:
        made["delayMs"] = delay_ms
    if fail is not None:
        made["fail"] = {"status": fail[0], "attempts": fail[1]}
    if cut:
        made["cut"] = True
    return made


def prompt(*replies: Reply, nonce: str) -> str:
    """A prompt that makes the scripted model give these replies, one per model call."""
    return f"Do as the script says. ({nonce})\n```script\n{json.dumps({'nonce': nonce, 'replies': replies})}\n```"


def script_in(text: str) -> Mapping[str, Any] | None:
    """Return the script in a prompt; None if it has no valid one."""
    found = _BLOCK.search(text)
    if not found:
        return None
    try:
        script = json.loads(found[2])
    except ValueError:
        return None
    return cast("dict[str, Any]", script) if isinstance(script, dict) and "replies" in script else None
