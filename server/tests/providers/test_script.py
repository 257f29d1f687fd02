"""Parsing of scripts, and the replies of the scripted model."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cmdc_gateway.kernel.signals import TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage, assistant, system, user
from cmdc_gateway.providers.provider import ModelError
from cmdc_gateway.providers.scripted.script import AttemptCounter, parse_script, reply_for
from hypothesis import given
from hypothesis import strategies as st


def fenced(script: Any, *, fence: str = "```", info: str = "script") -> str:
    text = script if isinstance(script, str) else json.dumps(script)
    return f"{fence}{info}\n{text}\n{fence}"


ONE = {"replies": [{"text": ["one"]}]}
TWO = {"replies": [{"text": ["two"]}]}


@pytest.mark.parametrize(
    "text",
    [
        fenced(ONE),
        fenced(ONE, fence="~~~"),
        fenced(ONE, fence="`````"),
        fenced(ONE, info="  script  "),
        "Please.\r\n\r\n" + fenced(ONE).replace("\n", "\r\n") + "\r\nThank you.",
        "   ```script\n" + json.dumps(ONE),  # never closed, so it extends to the end
        fenced(ONE) + "\n" + fenced(TWO),
        fenced("print()", info="python") + "\n" + fenced(ONE),
        fenced(json.dumps(ONE, indent=2) + "\n"),
    ],
)
def test_the_first_script_block_is_found(text: str) -> None:
    script = parse_script(text)

    assert script is not None
    assert script.replies[0].text == ["one"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "script",
        fenced(ONE, info=""),
        fenced(ONE, info="json"),
        fenced(ONE, info="scripts"),
        "``script\n{}\n``",
        "    " + fenced(ONE),  # four spaces make it code, not a fence
        "````\n" + fenced(ONE) + "\n````",  # quoted in another block
        "~~~\n" + fenced(ONE) + "\n~~~",
        "```script `x`\n{}\n```",
    ],
)
def test_text_without_a_script_block_has_no_script(text: str) -> None:
    assert parse_script(text) is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("{", "line 1"),
        ("[]", "the script"),
        ("null", "the script"),
        ("{}", "replies"),
        ('{"replies": {}}', "replies"),
        ({"replies": [], "more": 1}, "more"),
        ({"replies": [{"text": "one"}]}, "replies.0.text"),
        ({"replies": [{"text": [1]}]}, "replies.0.text.0"),
        ({"replies": [{"delayMs": -1}]}, "replies.0.delayMs"),
        ({"replies": [{"delayMs": True}]}, "replies.0.delayMs"),
        ({"replies": [{"delayMs": "5"}]}, "replies.0.delayMs"),
        ({"replies": [{"delay_ms": 5}]}, "replies.0.delay_ms"),
        ({"replies": [{"fail": {"status": 200}}]}, "replies.0.fail.status"),
        ({"replies": [{"cut": 1}]}, "replies.0.cut"),
        ({"replies": [{"usage": {"promptTokens": 1}}]}, "completionTokens"),
        ({"replies": [{"toolCalls": [{"name": "f", "args": [1]}]}]}, "replies.0.toolCalls.0.args"),
        ('{"replies": [{"toolCalls": [{"args": {}}]}]}', "replies.0.toolCalls.0.name"),
        ({"nonce": 7, "replies": []}, "nonce"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": {"x": NaN}}]}]}', "NaN"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": {"x": 1e999}}]}]}', "invalid script"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": {"x": ' + "9" * 30 + "}}]}]}", "64 bits"),
        ("[" * 100_000, "nested"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": ' + '{"a":' * 300 + "1" + "}" * 300 + "}]}]}", "script"),
    ],
)
def test_an_invalid_script_is_rejected_with_a_reason(script: Any, reason: str) -> None:
    with pytest.raises(ModelError) as raised:
        parse_script(fenced(script))

    assert reason in raised.value.reason
    assert len(raised.value.reason) < 300
    assert not raised.value.transient


@given(st.text())
def test_any_text_is_repeated_exactly(text: str) -> None:
    words = [chunk.text for chunk in reply_for([user(f"say {text}")]).visible_chunks]

    assert "".join(words) == f"You said: say {text}"
    assert all(words)


@given(st.text(alphabet='`~ script{}[]"\n:replies', max_size=200))
def test_parsing_any_text_raises_nothing_but_model_errors(text: str) -> None:
    with contextlib.suppress(ModelError):
        parse_script("```script\n" + text)


def test_the_number_of_previous_model_calls_selects_the_reply() -> None:
    prompt = user(fenced({"replies": [{"text": ["a"]}, {"text": ["b"]}]}))
    history = [system("x"), user("before"), assistant("You said: before"), prompt]

    texts: list[str] = []
    for _ in range(4):
        texts.append("".join(chunk.text for chunk in reply_for(history).visible_chunks))
        history.append(assistant(texts[-1]))

    assert texts == ["a", "b", "done", "done"]


def test_an_empty_list_of_replies_produces_done() -> None:
    assert reply_for([user(fenced({"replies": []}))]).visible_chunks == (TextArrived("done"),)


def test_the_default_usage_is_the_words_of_the_prompt_and_the_chunks_of_the_reply() -> None:
    prompt = "Two words\n" + fenced(
        {"replies": [{"thinking": ["t"], "text": ["a", "b"], "toolCalls": [{"name": "f"}]}]}
    )

    reply = reply_for([user(prompt)])

    assert reply.chunks == (ThoughtArrived("t"), TextArrived("a"), TextArrived("b"), ToolRequested("f", {}))
    assert reply.usage == TokenUsage(prompt_tokens=len(prompt.split()), completion_tokens=4)


def failing(attempts: int, nonce: str | None = None) -> Any:
    script = {"replies": [{"fail": {"status": 500, "attempts": attempts}, "text": ["ok"]}]}
    return reply_for([user(fenced(script if nonce is None else script | {"nonce": nonce}))])


def test_attempts_are_counted_per_nonce() -> None:
    attempts = AttemptCounter()

    a = [attempts.failure_status(failing(2, "a")) for _ in range(4)]
    b = [attempts.failure_status(failing(1, "b")) for _ in range(2)]
    always = [attempts.failure_status(failing(0, "c")) for _ in range(5)]

    assert (a, b, always) == ([500, 500, None, None], [500, None], [500] * 5)


def test_the_number_of_counts_is_bounded() -> None:
    attempts = AttemptCounter(max_replies=2)

    for nonce in ("a", "b", "c", "d"):
        attempts.failure_status(failing(1, nonce))

    assert [attempts.failure_status(failing(1, nonce)) for nonce in ("d", "c", "a")] == [None, None, 500]
