"""Prompts that tell the scripted model what to do, so that the examples need no language model.

A real model needs none of this: make the session with its name, ask it in plain words, and leave the rest as it is.
"""

from __future__ import annotations

import json
from typing import Any

MODEL = "scripted:demo"


def scripted(prompt: str, *replies: dict[str, Any]) -> str:
    """A prompt to which the scripted model gives these replies: one for each time that it is called in the run.

    A reply is `{"text": [pieces]}`, `{"thinking": [pieces]}`, `{"toolCalls": [calls]}`, or several of them together;
    `"delayMs"` waits before each piece.
    """
    return f"{prompt}\n```script\n{json.dumps({'replies': replies})}\n```"


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call, to be listed in a reply's `toolCalls`."""
    return {"name": name, "args": args}
