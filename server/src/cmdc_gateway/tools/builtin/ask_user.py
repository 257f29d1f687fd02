"""`ask_user {question, options?}`: only its definition. The kernel asks the question and waits (ASK-1)."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.tools.builtin.definition import Definition

ASK_USER: Final = Definition(
    name="ask_user",
    description=(
        "Ask the user a question and wait for the answer. Use it for decisions that only the user can make. "
        "With `options`, the answer is one of them."
    ),
    properties={
        "question": {"type": "string", "minLength": 1},
        "options": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 100,
            "description": "The possible answers. Without it, the user can answer freely.",
        },
    },
    required=("question",),
)
