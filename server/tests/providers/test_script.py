"""The pure part of the scripted model (PROTOCOL §10)."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cmdc_gateway.kernel.signals import TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage, assistant, system, user
from cmdc_gateway.providers.provider import ModelError
from cmdc_gateway.providers.script import Tries, parse_script, reply_for
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
        "   ```script\n" + json.dumps(ONE),  # never closed: it runs to the end
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
        "````\n" + fenced(ONE) + "\n````",  # shown, not meant
        "~~~\n" + fenced(ONE) + "\n~~~",
        "```script `x`\n{}\n```",
    ],
)
def test_what_is_no_script_block_is_none(text: str) -> None:
    assert parse_script(text) is None


@pytest.mark.parametrize(
    ("script", "complaint"),
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
        ('{"replies": [{"toolCalls": [{"name": "f", "args": {"x": 1e999}}]}]}', "script cannot be obeyed"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": {"x": ' + "9" * 30 + "}}]}]}", "64 bits"),
        ("[" * 100_000, "nested"),
        ('{"replies": [{"toolCalls": [{"name": "f", "args": ' + '{"a":' * 300 + "1" + "}" * 300 + "}]}]}", "script"),
    ],
)
def test_a_script_that_cannot_be_obeyed_is_refused_with_a_reason(script: Any, complaint: str) -> None:
    with pytest.raises(ModelError) as raised:
        parse_script(fenced(script))

    assert complaint in raised.value.reason
    assert len(raised.value.reason) < 300
    assert not raised.value.transient


@given(st.text())
def test_any_text_is_said_back_exactly(text: str) -> None:
    said = [chunk.text for chunk in reply_for([user(f"say {text}")]).shown]

    assert "".join(said) == f"You said: say {text}"
    assert all(said)


@given(st.text(alphabet='`~ script{}[]"\n:replies', max_size=200))
def test_any_text_is_a_script_or_none_or_a_model_error(text: str) -> None:
    with contextlib.suppress(ModelError):
        parse_script("```script\n" + text)


def test_the_reply_is_the_one_for_the_number_of_answers_so_far() -> None:
    asked = user(fenced({"replies": [{"text": ["a"]}, {"text": ["b"]}]}))
    history = [system("x"), user("before"), assistant("You said: before"), asked]

    said: list[str] = []
    for _ in range(4):
        said.append("".join(chunk.text for chunk in reply_for(history).shown))
        history.append(assistant(said[-1]))

    assert said == ["a", "b", "done", "done"]


def test_an_empty_list_of_replies_answers_done() -> None:
    assert reply_for([user(fenced({"replies": []}))]).shown == (TextArrived("done"),)


def test_without_usage_words_of_the_message_and_chunks_of_the_reply_are_counted() -> None:
    asked = "Two words\n" + fenced({"replies": [{"thinking": ["t"], "text": ["a", "b"], "toolCalls": [{"name": "f"}]}]})

    reply = reply_for([user(asked)])

    assert reply.chunks == (ThoughtArrived("t"), TextArrived("a"), TextArrived("b"), ToolRequested("f", {}))
    assert reply.usage == TokenUsage(prompt_tokens=len(asked.split()), completion_tokens=4)


def failing(attempts: int, nonce: str | None = None) -> Any:
    script = {"replies": [{"fail": {"status": 500, "attempts": attempts}, "text": ["ok"]}]}
    return reply_for([user(fenced(script if nonce is None else script | {"nonce": nonce}))])


def test_tries_are_counted_for_each_nonce() -> None:
    tries = Tries()

    a = [tries.failed_status(failing(2, "a")) for _ in range(4)]
    b = [tries.failed_status(failing(1, "b")) for _ in range(2)]
    always = [tries.failed_status(failing(0, "c")) for _ in range(5)]

    assert (a, b, always) == ([500, 500, None, None], [500, None], [500] * 5)


def test_only_so_many_tries_are_remembered() -> None:
    tries = Tries(keep=2)

    for nonce in ("a", "b", "c", "d"):
        tries.failed_status(failing(1, nonce))

    assert [tries.failed_status(failing(1, nonce)) for nonce in ("d", "c", "a")] == [None, None, 500]
