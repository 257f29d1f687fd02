"""Prompts that carry a script for the scripted model, so that the examples need no language model.

A real model needs no script: create the session with its name and send plain prompts; nothing else changes.
"""

from __future__ import annotations

import json
from typing import Any

MODEL = "scripted:demo"


def scripted(prompt: str, *replies: dict[str, Any]) -> str:
    """A prompt to which the scripted model gives these replies, one for each model call of the run.

    A reply has `"text"` and `"thinking"` (lists of chunks) and `"toolCalls"` (a list of calls), each optional; `"delayMs"`
    is the pause before each chunk.
    """
    return f"{prompt}\n```script\n{json.dumps({'replies': replies})}\n```"


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call for the `toolCalls` of a reply."""
    return {"name": name, "args": args}
