"""Messages as `GET …/messages` returns them (EP-messages)."""

import json
from typing import Any

import pytest
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall, assistant, system, tool_result, user
from hypothesis import given
from hypothesis import strategies as st

CALL = ToolCall("c1", "look", {"at": "sky"})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
calls = st.builds(ToolCall, texts, texts, st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3))
messages = (
    st.builds(system, texts)
    | st.builds(user, texts)
    | st.builds(assistant, texts, st.lists(calls, max_size=3).map(tuple))
    | st.builds(tool_result, calls, texts, is_error=st.booleans())
)
counts = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (system("be kind"), {"role": "system", "content": "be kind"}),
        (user("hi"), {"role": "user", "content": "hi"}),
        (assistant(""), {"role": "assistant", "content": ""}),
        (
            assistant("Let me look.", (CALL,)),
            {
                "role": "assistant",
                "content": "Let me look.",
                "toolCalls": [{"callId": "c1", "name": "look", "arguments": {"at": "sky"}}],
            },
        ),
        (
            tool_result(CALL, "blue", is_error=False),
            {"role": "tool_result", "content": "blue", "callId": "c1", "name": "look", "isError": False},
        ),
    ],
)
def test_a_message_has_the_members_of_its_role(message: Message, wire: dict[str, Any]) -> None:
    assert message.wire() == wire


@given(message=messages)
def test_a_message_is_decoded_as_it_was_encoded(message: Message) -> None:
    assert Message.from_wire(json.loads(dumps(message.wire()))) == message


@given(one=st.builds(TokenUsage, counts, counts), other=st.builds(TokenUsage, counts, counts))
def test_token_usage_adds_up(one: TokenUsage, other: TokenUsage) -> None:
    both = one + other

    assert both.total_tokens == one.total_tokens + other.total_tokens
    assert both.wire() == {
        "promptTokens": one.prompt_tokens + other.prompt_tokens,
        "completionTokens": one.completion_tokens + other.completion_tokens,
        "totalTokens": both.total_tokens,
    }
