"""`ask_user {question, options?}`: its spec alone. The kernel asks and waits (ASK-1); nothing runs here."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.tools.builtin.base import Definition

ASK_USER: Final = Definition(
    name="ask_user",
    description=(
        "Ask the person you work for a question and wait for the answer. Use it when only they can decide. "
        "With `options`, the answer will be one of them."
    ),
    properties={
        "question": {"type": "string", "minLength": 1},
        "options": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 100,
            "description": "The answers to choose from; leave it out for a free answer.",
        },
    },
    required=("question",),
)
