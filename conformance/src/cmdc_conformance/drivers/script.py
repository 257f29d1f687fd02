"""Scripts: what the model is to do, written into a prompt (PROTOCOL §10)."""

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
    """What one model call is answered with. `usage` are prompt and completion tokens, `fail` a status and attempts."""
    said: Reply = {"text": [*text]}
    if thinking:
        said["thinking"] = [*thinking]
    if calls:
        said["toolCalls"] = [{"name": name, "args": dict(args)} for name, args in calls]
    if usage is not None:
        said["usage"] = {"promptTokens": usage[0], "completionTokens": usage[1]}
    if delay_ms:
        said["delayMs"] = delay_ms
    if fail is not None:
        said["fail"] = {"status": fail[0], "attempts": fail[1]}
    if cut:
        said["cut"] = True
    return said


def prompt(*replies: Reply, nonce: str) -> str:
    """A prompt whose model calls are answered so."""
    return f"Do as the script says. ({nonce})\n```script\n{json.dumps({'nonce': nonce, 'replies': replies})}\n```"


def script_in(text: str) -> Mapping[str, Any] | None:
    """The script in a prompt; None if there is none, or none that can be read."""
    found = _BLOCK.search(text)
    if not found:
        return None
    try:
        script = json.loads(found[2])
    except ValueError:
        return None
    return cast("dict[str, Any]", script) if isinstance(script, dict) and "replies" in script else None
